"""Makes plain JPEGs of odd ones, without loss: the same coded data between tidy markers.

Pillow and browsers show files with stray bytes between segments or a segment of the wrong length,
and frames of Motion-JPEG, which leave the standard Huffman tables to the decoder. Others refuse
them, or show something else.
"""

from __future__ import annotations

import functools
import io
from itertools import pairwise

import numpy as np
from PIL import Image

from fastimae.loaders.jpeg import JpegInfo, read_jpeg_info
from fastimae.loaders.jpeg_markers import (
    APPLICATION,
    END_OF_IMAGE,
    HUFFMAN_TABLES,
    START_OF_IMAGE,
    START_OF_SCAN,
    Segment,
    segments,
)
from fastimae.loaders.jpeg_walk import SEQUENTIAL_BAND

_SAY_COLOURS = (APPLICATION[0], APPLICATION[14])
"""JFIF and Adobe."""


def mend_jpeg(data: bytes, image: Image.Image) -> tuple[bytes, str]:
    """A JPEG file to use in place of `data`, of which `image` is decoded, and what it mends.

    It has the same pixels. `data` itself and "" if there is nothing to mend, or it cannot be done.
    """
    info = read_jpeg_info(data)
    if info is None or not (info.is_common and info.complete) or (info.tidy and info.own_tables):
        return data, ""
    mended = _rewritten(data, info)
    after = read_jpeg_info(mended)
    tidy = after.tidy or not after.all_scans
    if not (after.complete and tidy and after.own_tables and _shows(mended, image)):
        return data, ""
    faults = ["with stray bytes"] * (not info.tidy) + ["without tables"] * (not info.own_tables)
    return mended, f"JPEG {' and '.join(faults)}"


def _rewritten(data: bytes, info: JpegInfo) -> bytes:
    """The file without stray bytes, and with standard tables if it has to use some.

    Where scans are missing, bytes between the others stay, as they may be what is left of a scan:
    damage, for others to judge.
    """
    parts, scans = [START_OF_IMAGE], 0
    tables = b"" if info.own_tables or info.progressive else standard_tables()
    for segment, following in pairwise(segments(data)):
        scans += segment.marker == START_OF_SCAN
        if segment.marker not in APPLICATION:
            parts.append(tables)  # before the file's own, which may replace some of them
            tables = b""
        if not (segment.idle or (following.stray and _has_wrong_length(segment))):
            parts.append(_bytes_of(segment, data, info.progressive))
        if scans and following.stray and not info.all_scans:
            parts.append(data[segment.end : following.start])
    return b"".join([*parts, bytes([0xFF, END_OF_IMAGE])])


def _has_wrong_length(segment: Segment) -> bool:
    """Whether stray bytes behind it are the rest of it, which other readers may want to read."""
    return segment.marker in APPLICATION and segment.marker not in _SAY_COLOURS


def _bytes_of(segment: Segment, data: bytes, progressive: bool) -> bytes:
    if segment.marker != START_OF_SCAN or progressive:
        return data[segment.start : segment.end]
    return data[segment.start : segment.end - len(SEQUENTIAL_BAND)] + SEQUENTIAL_BAND


@functools.cache
def standard_tables() -> bytes:
    """The segments of the Huffman tables that the JPEG standard proposes, as libjpeg writes them
    unless asked for better ones."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = file.getvalue()
    return b"".join(data[s.start : s.end] for s in segments(data) if s.marker == HUFFMAN_TABLES)


def _shows(data: bytes, image: Image.Image) -> bool:
    """Whether Pillow reads the same from a file as it has read before."""
    try:
        again = Image.open(io.BytesIO(data))
        again.load()
    except Exception:  # Pillow raises a dozen types
        return False
    return again.mode == image.mode and np.array_equal(np.asarray(again), np.asarray(image))
