"""The layout of a `.beton` file (version 2), shared by reader and writer.

Little-endian, in this order:

    header | field descriptors | metadata [N] | zeros | pages | names | allocation table

Pages start at multiples of the page size, and a sample's bytes are within one page. Its metadata
gives their position; the allocation table, which ends the file, gives their length. Files written
here have three additions that other readers skip: a trailer after each sample in the same page
(trailer.py), the names of the classes (names.py), and a checksum of everything but the samples
(record.py).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

VERSION = 2
DEFAULT_PAGE_SIZE = 8 << 20
MAX_SIDE = 65535
"""Sides are stored in 16 bits."""

HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ],
    align=True,
)
DESCRIPTOR = np.dtype([("type_id", "u1"), ("name", "S16"), ("arguments", "V1024")])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])

_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_REGION = np.dtype([("ptr", "<u8"), ("size", "<u8")])
FLOAT_FIELD, INT_FIELD, IMAGE_FIELD, BANDS_FIELD = 0, 1, 2, 255
"""BANDS_FIELD is ffcv's "custom": see bands_field.py."""
METADATA = {
    FLOAT_FIELD: np.dtype("<f8"),
    INT_FIELD: np.dtype("<i8"),
    IMAGE_FIELD: _IMAGE,
    3: _REGION,  # bytes
    4: np.dtype("<u8"),  # array
    5: _REGION,  # JSON
    6: np.dtype("<u8"),  # tensor
    BANDS_FIELD: _IMAGE,
}
MODES = {"jpg": 0, "raw": 1}
DEFAULT_MODE: Literal["jpg", "raw"] = "jpg"

ROW = np.dtype(
    [(name, "<i8") for name in ("ptr", "size", "trailer", "height", "width", "mode", "label")],
)
"""One sample as reader and writer hold it in memory; `trailer`: its size in bytes, 0 if none."""


def metadata_dtype(type_ids: list[int]) -> np.dtype:
    """Return the structured type of a sample's metadata: field k of the file is named `fk`."""
    return np.dtype([("", METADATA[type_id]) for type_id in type_ids], align=True)


def end_of(rows: np.ndarray) -> int:
    """Return the position after the last sample of ROW [N] and its trailer."""
    return int(rows[-1]["ptr"] + rows[-1]["size"] + rows[-1]["trailer"]) if len(rows) else 0
