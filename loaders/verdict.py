"""Whether a sample of a `.beton` file is sound: one rule for every reader, and for `--verify`.

In a file that has trailers, each sample must have a sound one that holds the checksum of its bytes.
A JPEG that no trailer vouches for is decoded whole by the native library, if there is one, which
sees damage that Pillow and others show in silence. What passes is shown, if Pillow can read it: of
files that the library does not support, Pillow is the only judge. csrc/dataset.cc has this rule
for the native engine.
"""

from __future__ import annotations

import zlib

from fastimae.loaders import native_library
from fastimae.loaders.trailer import read_trailer


def find_problem(
    payload: bytes | memoryview, trailer: bytes | memoryview, *, is_jpeg: bool, has_trailers: bool
) -> str | None:
    """Why a sample is bad whatever Pillow says, in one line, or None.

    trailer: its bytes, empty if there is none; has_trailers: whether any sample of the file has
    one. Takes as long as decoding if nobody vouches for the sample.
    """
    vouched = False
    if has_trailers:
        if not trailer:
            return "it has no checksum, unlike other samples of the file"
        try:
            found = read_trailer(trailer)
        except ValueError as error:
            return str(error)
        if found.crc != zlib.crc32(payload):
            return "its bytes are not those that were written: the checksum differs"
        vouched = found.vouches
    return _damage(payload) if is_jpeg and not vouched else None


def _damage(jpeg: bytes | memoryview) -> str | None:
    """What the native library, if there is one, finds wrong with a JPEG file."""
    if native_library.load() is None:
        return None
    status, problem, _ = native_library.inspect_jpeg(jpeg)
    return problem if status == native_library.DAMAGED else None
