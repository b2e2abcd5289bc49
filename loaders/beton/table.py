"""Reads the table of a `.beton` file (its samples' sizes, positions and labels), and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastimae.loaders.beton.bands_field import form_in
from fastimae.loaders.beton.fields import (
    Field,
    WantedFields,
    choose_image,
    choose_label,
    describe_fields,
)
from fastimae.loaders.beton.layout import (
    ALLOCATION,
    BANDS_FIELD,
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
from fastimae.loaders.beton.names import find_names
from fastimae.loaders.beton.record import (
    check_record,
    damaged_table,
    has_record,
    refuse_lost_record,
)
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.sources.what_is import BETON, check_is


class Table(NamedTuple):
    """The content of a file, apart from pixels and trailers."""

    rows: np.ndarray
    """ROW [N], the samples."""
    names: memoryview
    """The names of the classes (names.py); empty if they are not in the file."""
    kind: str
    """The kind of file, in words."""
    image_field: str
    """Name of the field that the images are read from."""
    form: PixelForm
    """That of raw pixels."""


def read_table(path: Path, view: memoryview, wanted: WantedFields) -> Table:
    """Read a file's table, and check everything except pixels and trailers.

    If the file has a record (record.py), the table is sure to be the one that was written.

    Raises:
        DataError: the file is truncated, foreign or damaged, has no images, lacks the fields
            `wanted`, or has several fields that qualify.
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
    form = fields[image].form
    _add_sizes(path, view, rows, fields, form, first_byte, end)
    kind = describe_fields(fields, image, label)
    return Table(rows, names, kind, fields[image].name, form)


def read_fields(path: Path, view: memoryview) -> list[Field]:
    """Read a file's field descriptors. Raises DataError if it is truncated, foreign or damaged."""
    header = np.frombuffer(view, HEADER, 1)[0]
    if header["version"] != VERSION:
        check_is(path, BETON)
        raise DataError(f"{path}: not a .beton file of version {VERSION}")
    count, end = int(header["num_fields"]), int(header["alloc_table_ptr"])
    start = HEADER.itemsize + count * DESCRIPTOR.itemsize
    if not start < end < len(view) or (len(view) - end) % ALLOCATION.itemsize:
        raise DataError(f"{path}: truncated or damaged, its allocation table is incomplete")
    descriptors = np.frombuffer(view, DESCRIPTOR, count, HEADER.itemsize)
    fields = [
        Field(name.decode("ascii", "replace"), int(type_id), form_in(type_id, bytes(arguments)))
        for type_id, name, arguments in descriptors
    ]
    foreign = [
        field.name
        for field in fields
        if field.type_id not in METADATA or (field.type_id == BANDS_FIELD and field.form is None)
    ]
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
    form: PixelForm,
    first_byte: int,
    end: int,
) -> None:
    """Fill in the sizes of samples and trailers, from the allocation table."""
    table = np.frombuffer(view, ALLOCATION, -1, end)
    table = table[np.argsort(table["ptr"], kind="stable")]
    rows["size"] = _sizes(path, table, rows, first_byte, end)
    _check_shapes(path, rows, form)
    rows["trailer"] = _trailer_sizes(path, table, rows, fields, end)
    if not has_record(view):
        refuse_lost_record(path, view, (rows["ptr"] + rows["size"]) * (rows["trailer"] > 0))


def _sizes(
    path: Path, table: np.ndarray, rows: np.ndarray, first_byte: int, end: int
) -> np.ndarray:
    """Return int64 [N], bytes of each image, by the allocation table's entry at its position."""
    exists, sizes, _ = _allocated_at(table, rows["ptr"])
    # Numbers of 2**63 and more turn negative here, so they fail one of these tests, as they should.
    inside = exists & (rows["ptr"] >= first_byte) & (sizes > 0) & (sizes <= end - rows["ptr"])
    if not inside.all():
        raise DataError(f"{path}: damaged, the data of sample {np.argmin(inside)} is not in it")
    return sizes


def _trailer_sizes(
    path: Path, table: np.ndarray, rows: np.ndarray, fields: Sequence[Field], end: int
) -> np.ndarray:
    """Return int64 [N], bytes of each trailer, 0 if none: it is an allocation of the same sample
    directly after the image."""
    if sum(field.type_id not in (INT_FIELD, FLOAT_FIELD) for field in fields) > 1:
        return np.zeros(len(rows), np.int64)  # the bytes after an image belong to another field
    positions = rows["ptr"] + rows["size"]
    exists, sizes, samples = _allocated_at(table, positions)
    exists &= samples == np.arange(len(rows))
    inside = ~exists | (sizes >= 0) & (sizes <= end - positions)
    if not inside.all():
        raise DataError(f"{path}: damaged, the trailer of sample {np.argmin(inside)} is not in it")
    return sizes * exists


def _allocated_at(
    table: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Look up positions in the sorted table; return whether there is an entry, its size, and its
    sample, each [N]."""
    starts = table["ptr"].astype(np.int64)
    nearest = np.searchsorted(starts, positions).clip(max=len(table) - 1)
    entries = table[nearest]
    sizes, samples = entries["size"].astype(np.int64), entries["sample_id"].astype(np.int64)
    return starts[nearest] == positions, sizes, samples


def _check_shapes(path: Path, rows: np.ndarray, form: PixelForm) -> None:
    raw = rows["mode"] == MODES["raw"]
    good = (
        (raw | ((rows["mode"] == MODES["jpg"]) & (form == RGB8)))
        & (rows["height"] > 0)
        & (rows["width"] > 0)
    )
    good &= ~raw | (rows["size"] == rows["height"] * rows["width"] * form.nbytes)
    if not good.all():
        raise DataError(f"{path}: damaged, sample {np.argmin(good)} cannot be an image")
