"""Facts about a JPEG from its markers, without decoding: its kind, and whether it is intact."""

from __future__ import annotations

from typing import NamedTuple

from fastimae.loaders.images.jpeg_markers import START_OF_IMAGE, segments
from fastimae.loaders.images.jpeg_walk import Component, JpegWalk

_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive, which every JPEG decoder supports."""
_USUAL_LUMA = frozenset({0x11, 0x21, 0x12, 0x22, 0x41})
"""Horizontal and vertical factor: 4:4:4, 4:2:2, 4:4:0, 4:2:0, 4:1:1."""
_USUAL_CHROMA = 0x11
_END = b"\xff\xd9"


class JpegInfo(NamedTuple):
    """The frame header, and whether the file has everything that it should have."""

    huffman: bool
    """Baseline or progressive, not lossless or arithmetic."""
    progressive: bool
    """Whether a scan may contain a part of the coefficients, or of their bits."""
    precision: int
    """Bits per channel."""
    height: int
    width: int
    channels: int
    usual_sampling: bool
    """One component; or three with distinct names, the last two as large as the first, halved in
    width, height or both, or a quarter of its width."""
    complete: bool
    """Whether the end marker is reached: nothing before it is cut off, and no segment has a kind,
    length or content at which libjpeg gives up."""
    tidy: bool
    """Whether every byte belongs to a segment that is allowed there. Not allowed: stray bytes
    before a marker other than fill bytes (bytes after a scan's data count as data, because scans
    are not decoded here), a restart outside a scan, a line count, a segment shorter than its length
    field, a sequential scan of only some coefficients."""
    own_tables: bool
    """Whether the file defines each Huffman and quantisation table before the scan that uses it,
    possibly between scans. If not, decoders must know the missing tables: Motion-JPEG omits the
    standard ones."""
    all_scans: bool
    """Whether every bit of every coefficient is in a scan, exactly once, in an order that the
    standard allows."""

    @property
    def is_common(self) -> bool:
        """Whether the native library reads it: Huffman, 8 bits, one or three channels."""
        return self.huffman and self.precision == 8 and self.channels in (1, 3)

    @property
    def is_plain(self) -> bool:
        """Whether all decoders read it alike: nothing is missing or ambiguous."""
        intact = self.complete and self.tidy and self.own_tables and self.all_scans
        return self.is_common and self.usual_sampling and intact


def read_jpeg_info(data: bytes | memoryview) -> JpegInfo | None:
    """Walk through all of a JPEG file as libjpeg does.

    Returns None if it does not start like one, or has no frame header that libjpeg accepts.
    """
    return _read(data, to_the_end=True)


def read_jpeg_header(data: bytes | memoryview) -> JpegInfo | None:
    """Read the same, but no further than needed to decide whether the file is plain.

    If a sequential file has a single scan, its data is skipped, and the end marker is expected in
    the last two bytes. An untidy file is abandoned as soon as that is clear.
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
