"""What a `.beton` file says of its samples, checked against the file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastimae.loaders.beton_format import (
    ALLOCATION,
    DESCRIPTOR,
    FLOAT_FIELD,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    METADATA,
    MODES,
    ROW,
    VERSION,
    metadata_dtype,
)
from fastimae.loaders.beton_record import (
    check_record,
    damaged_table,
    has_record,
    refuse_lost_record,
)
from fastimae.loaders.errors import DataError


def read_table(path: Path, view: memoryview) -> np.ndarray:
    """ROW [N], the samples, after checking everything but pixels and trailers.

    Where the file has a record (beton_record.py), all this is what was written.

    Raises:
        DataError: the file is truncated, foreign or damaged, or holds no images.
    """
    header = np.frombuffer(view, HEADER, 1)[0]
    if header["version"] != VERSION:
        raise DataError(f"{path}: not a .beton file of version {VERSION}")
    fields, count = int(header["num_fields"]), int(header["num_samples"])
    start, end = HEADER.itemsize + fields * DESCRIPTOR.itemsize, int(header["alloc_table_ptr"])
    if not start < end < len(view) or (len(view) - end) % ALLOCATION.itemsize:
        raise DataError(f"{path}: truncated or damaged, its allocation table is not whole")
    types = _field_types(path, view, fields)
    dtype = metadata_dtype(types)
    first_byte = start + count * dtype.itemsize
    if count == 0 or first_byte > end:
        raise DataError(f"{path}: damaged, it cannot hold the {count} samples of its header")
    check_record(path, view, first_byte, end)
    metadata = np.frombuffer(view, dtype, count, start)
    image = metadata[f"f{types.index(IMAGE_FIELD)}"]
    rows = np.empty(count, ROW)
    for name in ("height", "width", "mode"):
        rows[name] = image[name]
    rows["label"] = _labels(metadata, types)
    rows["ptr"] = image["data_ptr"]
    table = np.frombuffer(view, ALLOCATION, -1, end)
    table = table[np.argsort(table["ptr"], kind="stable")]
    rows["size"] = _sizes(path, table, rows, first_byte, end)
    _check_shapes(path, rows)
    rows["trailer"] = _trailer_sizes(path, table, rows, types, end)
    if not has_record(view):
        refuse_lost_record(path, view, (rows["ptr"] + rows["size"]) * (rows["trailer"] > 0))
    return rows


def _field_types(path: Path, view: memoryview, fields: int) -> list[int]:
    descriptors = np.frombuffer(view, DESCRIPTOR, fields, HEADER.itemsize)
    types = descriptors["type_id"].tolist()
    if has_record(view) and not METADATA.keys() >= set(types):
        raise damaged_table(path)
    for type_id, name in zip(types, descriptors["name"], strict=True):
        if type_id not in METADATA:
            raise DataError(
                f"{path}: field {name.decode('ascii', 'replace')!r} is of a custom type; "
                "write the file again without it"
            )
    if IMAGE_FIELD not in types:
        raise DataError(f"{path}: has no RGB image field")
    return types


def _sizes(
    path: Path, table: np.ndarray, rows: np.ndarray, first_byte: int, end: int
) -> np.ndarray:
    """int64 [N], bytes of each image: the entry of the allocation table at its position."""
    found, sizes, _ = _allocated_at(table, rows["ptr"])
    # Beyond 2**63 the numbers turn negative, which fails one of these tests as it should.
    inside = found & (rows["ptr"] >= first_byte) & (sizes > 0) & (sizes <= end - rows["ptr"])
    if not inside.all():
        raise DataError(f"{path}: damaged, the data of sample {np.argmin(inside)} is not in it")
    return sizes


def _trailer_sizes(
    path: Path, table: np.ndarray, rows: np.ndarray, types: list[int], end: int
) -> np.ndarray:
    """int64 [N], bytes of the allocation of the same sample right behind each image; else 0."""
    if sum(type_id not in (INT_FIELD, FLOAT_FIELD) for type_id in types) > 1:
        return np.zeros(len(rows), np.int64)  # what follows belongs to another field
    positions = rows["ptr"] + rows["size"]
    found, sizes, samples = _allocated_at(table, positions)
    found &= samples == np.arange(len(rows))
    inside = ~found | (sizes >= 0) & (sizes <= end - positions)
    if not inside.all():
        raise DataError(f"{path}: damaged, the trailer of sample {np.argmin(inside)} is not in it")
    return sizes * found


def _allocated_at(
    table: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether the sorted table has an entry there, its size, and its sample: each [N]."""
    starts = table["ptr"].astype(np.int64)
    place = np.searchsorted(starts, positions).clip(max=len(table) - 1)
    entries = table[place]
    sizes, samples = entries["size"].astype(np.int64), entries["sample_id"].astype(np.int64)
    return starts[place] == positions, sizes, samples


def _labels(metadata: np.ndarray, types: list[int]) -> np.ndarray:
    """int64 [N]: the first integer field, else the first float field if all are whole numbers."""
    if INT_FIELD in types:
        return metadata[f"f{types.index(INT_FIELD)}"]
    if FLOAT_FIELD in types:
        values = metadata[f"f{types.index(FLOAT_FIELD)}"]
        if np.all((np.abs(values) < 2**53) & (values == np.trunc(values))):
            return values.astype(np.int64)
    return np.full(len(metadata), -1)


def _check_shapes(path: Path, rows: np.ndarray) -> None:
    raw = rows["mode"] == MODES["raw"]
    good = (raw | (rows["mode"] == MODES["jpg"])) & (rows["height"] > 0) & (rows["width"] > 0)
    good &= ~raw | (rows["size"] == rows["height"] * rows["width"] * 3)
    if not good.all():
        raise DataError(f"{path}: damaged, sample {np.argmin(good)} cannot be an image")
