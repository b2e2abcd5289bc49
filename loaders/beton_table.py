"""What a `.beton` file says of its samples, checked against the file itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastimae.loaders.beton_fields import Field, Wanted, choose_image, choose_label, told
from fastimae.loaders.beton_format import (
    ALLOCATION,
    DESCRIPTOR,
    FLOAT_FIELD,
    HEADER,
    INT_FIELD,
    METADATA,
    MODES,
    ROW,
    VERSION,
    metadata_dtype,
)
from fastimae.loaders.beton_names import find_names
from fastimae.loaders.beton_record import (
    check_record,
    damaged_table,
    has_record,
    refuse_lost_record,
)
from fastimae.loaders.errors import DataError
from fastimae.loaders.what_is import BETON, check_is


class Table(NamedTuple):
    """What a file says, apart from pixels and trailers."""

    rows: np.ndarray
    """ROW [N], the samples."""
    names: memoryview
    """The names of the classes (beton_names.py), empty where they are not in the file."""
    kind: str
    """What the file is, in words."""
    image_field: str
    """Name of the field that the images are from."""


def read_table(path: Path, view: memoryview, wanted: Wanted) -> Table:
    """What a file says, after checking everything but pixels and trailers.

    Where the file has a record (beton_record.py), all this is what was written.

    Raises:
        DataError: the file is truncated, foreign or damaged, holds no images, or not the fields
            `wanted`; or nothing says which of its fields is meant.
    """
    fields = read_fields(path, view)
    header = np.frombuffer(view, HEADER, 1)[0]
    count, end = int(header["num_samples"]), int(header["alloc_table_ptr"])
    start = HEADER.itemsize + len(fields) * DESCRIPTOR.itemsize
    dtype = metadata_dtype([field.type_id for field in fields])
    first_byte = start + count * dtype.itemsize
    if count == 0 or first_byte > end:
        raise DataError(f"{path}: damaged, it cannot hold the {count} samples of its header")
    names = find_names(path, view, first_byte, end)
    check_record(path, view, first_byte, names, end)
    metadata = np.frombuffer(view, dtype, count, start)
    image = choose_image(path, fields, wanted.image)
    label, labels = choose_label(path, fields, metadata, wanted.label) or (None, -1)
    rows = np.empty(count, ROW)
    for name in ("height", "width", "mode"):
        rows[name] = metadata[f"f{image}"][name]
    rows["label"] = labels
    rows["ptr"] = metadata[f"f{image}"]["data_ptr"]
    _add_sizes(path, view, rows, fields, first_byte, end)
    return Table(rows, names, told(fields, image, label), fields[image].name)


def read_fields(path: Path, view: memoryview) -> list[Field]:
    """The columns of a file. Raises DataError for a file that is truncated, foreign or damaged."""
    header = np.frombuffer(view, HEADER, 1)[0]
    if header["version"] != VERSION:
        check_is(path, BETON)
        raise DataError(f"{path}: not a .beton file of version {VERSION}")
    count, end = int(header["num_fields"]), int(header["alloc_table_ptr"])
    start = HEADER.itemsize + count * DESCRIPTOR.itemsize
    if not start < end < len(view) or (len(view) - end) % ALLOCATION.itemsize:
        raise DataError(f"{path}: truncated or damaged, its allocation table is not whole")
    descriptors = np.frombuffer(view, DESCRIPTOR, count, HEADER.itemsize)
    fields = [
        Field(name.decode("ascii", "replace"), type_id)
        for name, type_id in zip(descriptors["name"], descriptors["type_id"].tolist(), strict=True)
    ]
    foreign = [field.name for field in fields if field.type_id not in METADATA]
    if foreign and has_record(view):
        raise damaged_table(path)
    if foreign:
        raise DataError(
            f"{path}: field {foreign[0]!r} is of a custom type; write the file again without it"
        )
    return fields


def _add_sizes(
    path: Path,
    view: memoryview,
    rows: np.ndarray,
    fields: Sequence[Field],
    first_byte: int,
    end: int,
) -> None:
    """Fill in how long samples and trailers are, from the allocation table."""
    table = np.frombuffer(view, ALLOCATION, -1, end)
    table = table[np.argsort(table["ptr"], kind="stable")]
    rows["size"] = _sizes(path, table, rows, first_byte, end)
    _check_shapes(path, rows)
    rows["trailer"] = _trailer_sizes(path, table, rows, fields, end)
    if not has_record(view):
        refuse_lost_record(path, view, (rows["ptr"] + rows["size"]) * (rows["trailer"] > 0))


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
    path: Path, table: np.ndarray, rows: np.ndarray, fields: Sequence[Field], end: int
) -> np.ndarray:
    """int64 [N], bytes of the allocation of the same sample right behind each image; else 0."""
    if sum(field.type_id not in (INT_FIELD, FLOAT_FIELD) for field in fields) > 1:
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


def _check_shapes(path: Path, rows: np.ndarray) -> None:
    raw = rows["mode"] == MODES["raw"]
    good = (raw | (rows["mode"] == MODES["jpg"])) & (rows["height"] > 0) & (rows["width"] > 0)
    good &= ~raw | (rows["size"] == rows["height"] * rows["width"] * 3)
    if not good.all():
        raise DataError(f"{path}: damaged, sample {np.argmin(good)} cannot be an image")
