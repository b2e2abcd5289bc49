"""The loaders that the same tests run on: back end and number of workers."""

import pytest

from fastimae.loaders import native_library

_BUILT = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
DECODING = [
    *(pytest.param(name, marks=_BUILT) for name in ("native-0", "native-3")),
    *("pillow-0", "pillow-3", "folder-0", "folder-2"),
]
ALL = [*DECODING, "synthetic-0"]
