"""What a JPEG file says about itself, read from its markers without decoding it."""

from __future__ import annotations

from typing import NamedTuple

from fastimae.loaders.jpeg_markers import START_OF_IMAGE, segments
from fastimae.loaders.jpeg_walk import Component, JpegWalk

_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive: what every JPEG decoder reads."""
_USUAL_LUMA = frozenset({0x11, 0x21, 0x12, 0x22, 0x41})
"""Horizontal and vertical factor: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1."""
_USUAL_CHROMA = 0x11
_END = b"\xff\xd9"


class JpegInfo(NamedTuple):
    """The frame header, and whether the file has all that it should have."""

    huffman: bool
    """Baseline or progressive, not lossless or arithmetic."""
    progressive: bool
    """Whether a scan may send a part of the coefficients, or of their bits."""
    precision: int
    """Bits per channel."""
    height: int
    width: int
    channels: int
    usual_sampling: bool
    """One component; or three with names of their own, the last two as large as the first, halved
    in width, height or both, or of a quarter of the width."""
    complete: bool
    """Whether the end marker is reached: nothing before it is cut off, or of a kind, a length or a
    content at which libjpeg gives up."""
    tidy: bool
    """Whether every byte belongs to a segment that has its place there. Not so: stray bytes before
    a marker other than fill bytes (what a scan decodes to is not known here, so bytes behind its
    data count as data), a restart outside a scan, a line count, a segment too short for its own
    length, a sequential scan that names a part of the coefficients."""
    own_tables: bool
    """Whether the file defines each Huffman and quantisation table before the scan that uses it,
    be it between scans. Else it is up to the decoder: Motion-JPEG leaves out the standard ones."""
    all_scans: bool
    """Whether every coefficient of every component is sent to its last bit, each bit once, in an
    order that the standard allows."""

    @property
    def is_common(self) -> bool:
        """Whether it is of the kinds that the native library reads: Huffman, 8 bits, one or three
        channels."""
        return self.huffman and self.precision == 8 and self.channels in (1, 3)

    @property
    def is_plain(self) -> bool:
        """Whether any decoder reads it, and all alike: nothing is missing, or left to guess."""
        whole = self.complete and self.tidy and self.own_tables and self.all_scans
        return self.is_common and self.usual_sampling and whole


def read_jpeg_info(data: bytes | memoryview) -> JpegInfo | None:
    """Walk through all of a JPEG file as libjpeg does.

    None if it does not begin like one, or there is no frame header that libjpeg would take.
    """
    return _read(data, to_the_end=True)


def read_jpeg_header(data: bytes | memoryview) -> JpegInfo | None:
    """As `read_jpeg_info`, but no further than it takes to tell whether the file is plain.

    Where a sequential file has but one scan, its data is not read: the end marker is looked for in
    the last two bytes. A file that is not tidy is left where that shows.
    """
    return _read(data, to_the_end=False)


def _read(data: bytes | memoryview, to_the_end: bool) -> JpegInfo | None:
    if data[:2] != START_OF_IMAGE:
        return None
    walk = JpegWalk()
    for segment in segments(data):
        if not walk.take(segment, data):
            break
        if not to_the_end and (walk.has_one_scan or not walk.tidy):
            walk.complete = data[-2:] == _END
            break
    return _info(walk) if walk.frame else None


def _info(walk: JpegWalk) -> JpegInfo:
    return JpegInfo(
        huffman=walk.frame in _HUFFMAN_FRAMES,
        progressive=walk.progressive,
        precision=walk.precision,
        height=walk.height,
        width=walk.width,
        channels=len(walk.components),
        usual_sampling=_is_usual(walk.components),
        complete=walk.complete,
        tidy=walk.tidy,
        own_tables=walk.own_tables,
        all_scans=walk.all_scans,
    )


def _is_usual(components: list[Component]) -> bool:
    luma, *chroma = components
    distinct = len({component.id for component in components}) == len(components)
    usual = luma.sampling in _USUAL_LUMA and {c.sampling for c in chroma} == {_USUAL_CHROMA}
    return len(components) == 1 or (len(components) == 3 and distinct and usual)
