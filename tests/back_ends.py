"""The loader back ends that the common tests run on, with numbers of workers."""

from importlib import metadata

import pytest

from fastimae.loaders import native_library

INSTALLED = {name.partition("-cuda")[0] for part in metadata.distributions() if (name := part.name)}
"""Distribution names, without the CUDA version in them."""

_BUILT = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
_DALI = pytest.mark.skipif("nvidia-dali" not in INSTALLED, reason="DALI is not installed")
DALI = [
    pytest.param(name, marks=_DALI) for name in ("dali-0", "dali-3", "dalifolder-2", "dalishare-2")
]
DECODING = [
    *(pytest.param(name, marks=_BUILT) for name in ("native-0", "native-3")),
    *("pillow-0", "pillow-3", "folder-0", "folder-2", "dataset-0", "dataset-1", "device-2"),
    *DALI,
]
ALL = [*DECODING, "synthetic-0"]
WORKING = [name for name in DECODING if not str(getattr(name, "values", [name])[0]).endswith("-0")]
"""One of each kind, with threads or processes."""

AVAILABLE = [
    *(["native-2"] if native_library.load() else []),
    *("pillow-2", "folder-1", "dataset-1", "synthetic-0"),
    *(["dali-1", "dalishare-1"] if "nvidia-dali" in INSTALLED else []),
    *(["ffcv-1"] if "ffcv" in INSTALLED else []),
]
"""One of each kind that is available here."""
QUICK = [name for name in AVAILABLE if not name.startswith("ffcv")]
"""Without the library that compiles for seconds; test_ffcv_loader asks it what tests ask these."""
