"""Checks a sample of a `.beton` file for damage: one rule for all readers, and for `--verify`.

In a file with trailers, each sample must have an intact one, with the checksum of its bytes. A JPEG
that no trailer vouches for is decoded completely by the native library, if there is one: it finds
damage that Pillow and others silently accept. A sample that passes is used if Pillow can read
it; files that the library does not support are checked by Pillow alone. csrc/dataset.cc implements
this rule for the native engine.
"""

from __future__ import annotations

import zlib

from fastimae.loaders import native_library
from fastimae.loaders.beton.trailer import read_trailer


def find_problem(
    payload: bytes | memoryview, trailer: bytes | memoryview, *, is_jpeg: bool, has_trailers: bool
) -> str | None:
    """Return why a sample is damaged, in one line, or None; Pillow is not asked.

    trailer: its bytes, empty if there is none; has_trailers: whether any sample of the file has
    one. Takes as long as decoding if no trailer vouches for the sample.
    """
    vouched = False
    if has_trailers:
        if not trailer:
            return "it has no checksum, unlike other samples of the file"
        try:
            content = read_trailer(trailer)
        except ValueError as error:
            return str(error)
        if content.crc != zlib.crc32(payload):
            return "its bytes are not those that were written: the checksum differs"
        vouched = content.vouches
    return _damage(payload) if is_jpeg and not vouched else None


def _damage(jpeg: bytes | memoryview) -> str | None:
    """Return the damage that the native library finds in a JPEG file; None without the library."""
    if native_library.load() is None:
        return None
    status, problem, _ = native_library.inspect_jpeg(jpeg)
    return problem if status == native_library.DAMAGED else None
