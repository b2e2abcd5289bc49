"""Lossless repair of odd JPEGs: the same coded data between tidy markers.

Pillow and browsers accept files with stray bytes between segments or a segment of the wrong length,
and frames of Motion-JPEG, which omit the standard Huffman tables. Other decoders refuse them, or
decode something else.
"""

from __future__ import annotations

import functools
import io
from itertools import pairwise

import numpy as np
from PIL import Image

from fastimae.loaders.images.jpeg import JpegInfo, read_jpeg_info
from fastimae.loaders.images.jpeg_markers import (
    APPLICATION,
    END_OF_IMAGE,
    HUFFMAN_TABLES,
    START_OF_IMAGE,
    START_OF_SCAN,
    Segment,
    segments,
)
from fastimae.loaders.images.jpeg_walk import SEQUENTIAL_BAND

_COLOUR_SEGMENTS = (APPLICATION[0], APPLICATION[14])
"""JFIF and Adobe, which tell decoders the colour space."""


def repair_jpeg(data: bytes, image: Image.Image) -> tuple[bytes, str]:
    """Repair a JPEG file, of which `image` was decoded: return the new file and the faults removed.

    It has the same pixels. Returns `data` itself and "" if there is nothing to repair, or if it
    cannot be repaired.
    """
    info = read_jpeg_info(data)
    if info is None or not (info.is_common and info.complete) or (info.tidy and info.own_tables):
        return data, ""
    repaired = _rewrite(data, info)
    after = read_jpeg_info(repaired)
    tidy = after.tidy or not after.all_scans
    if not (after.complete and tidy and after.own_tables and _decodes_to(repaired, image)):
        return data, ""
    faults = ["with stray bytes"] * (not info.tidy) + ["without tables"] * (not info.own_tables)
    return repaired, f"JPEG {' and '.join(faults)}"


def _rewrite(data: bytes, info: JpegInfo) -> bytes:
    """Write the file without stray bytes, and with the standard tables if it relies on them.

    If scans are missing, bytes between the others stay, as they may be the rest of a scan: damage
    that later checks should see.
    """
    parts, scans = [START_OF_IMAGE], 0
    tables = b"" if info.own_tables or info.progressive else standard_tables()
    for segment, following in pairwise(segments(data)):
        scans += segment.marker == START_OF_SCAN
        if segment.marker not in APPLICATION:
            parts.append(tables)  # before the file's tables, which may replace some of them
            tables = b""
        if not (segment.idle or (following.stray and _has_wrong_length(segment))):
            parts.append(_bytes_of(segment, data, info.progressive))
        if scans and following.stray and not info.all_scans:
            parts.append(data[segment.end : following.start])
    return b"".join([*parts, bytes([0xFF, END_OF_IMAGE])])


def _has_wrong_length(segment: Segment) -> bool:
    """Return whether stray bytes after it are its tail, without which other readers may fail."""
    return segment.marker in APPLICATION and segment.marker not in _COLOUR_SEGMENTS


def _bytes_of(segment: Segment, data: bytes, progressive: bool) -> bytes:
    if segment.marker != START_OF_SCAN or progressive:
        return data[segment.start : segment.end]
    return data[segment.start : segment.end - len(SEQUENTIAL_BAND)] + SEQUENTIAL_BAND


@functools.cache
def standard_tables() -> bytes:
    """Return the segments with the JPEG standard's Huffman tables, which libjpeg writes by default.

    They are cut out of a file that Pillow writes.
    """
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    data = file.getvalue()
    return b"".join(data[s.start : s.end] for s in segments(data) if s.marker == HUFFMAN_TABLES)


def _decodes_to(data: bytes, image: Image.Image) -> bool:
    """Return whether Pillow decodes a file to the given image."""
    try:
        again = Image.open(io.BytesIO(data))
        again.load()
    except Exception:  # Pillow raises a dozen types
        return False
    return again.mode == image.mode and np.array_equal(np.asarray(again), np.asarray(image))
