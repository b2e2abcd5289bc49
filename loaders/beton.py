"""Reads `.beton` files, written here or by the ffcv library, without that library."""

from __future__ import annotations

import contextlib
import mmap
import os
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
from fastimae.loaders.beton_writer import BetonWriter
from fastimae.loaders.errors import DataError

__all__ = ["BetonReader", "BetonWriter"]


class BetonReader:
    """The samples of a `.beton` file, read through a memory map without copying.

    Opening checks all of the file but the pixels. Picklable: the copy opens the file again.

    Raises:
        DataError: the file is missing, truncated, foreign or damaged, or holds no images.
    """

    labels: np.ndarray
    """int64 [N], -1 where the file has no label field."""
    heights: np.ndarray
    """int64 [N], pixels."""
    widths: np.ndarray
    """int64 [N], pixels."""
    is_jpeg: np.ndarray
    """bool [N]; False means raw uint8 pixels [height, width, 3]."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map = _map_file(self.path)
        self._view = memoryview(self._map)
        try:
            rows = _parse(self.path, self._view)
        except DataError:
            self.close()
            raise
        columns = {name: np.ascontiguousarray(rows[name]) for name in ROW.names}
        self.labels, self.heights, self.widths = (
            columns[name] for name in ("label", "height", "width")
        )
        self.is_jpeg = columns["mode"] == MODES["jpg"]
        self._positions, self._sizes = columns["ptr"], columns["size"]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> memoryview:
        """Sample `index`'s bytes, uncopied: a JPEG file, or raw uint8 [height, width, 3]."""
        position, size = self.region(index)
        return self._view[position : position + size]

    def region(self, index: int) -> tuple[int, int]:
        """Where sample `index` lies in the file: position and size in bytes."""
        return int(self._positions[index]), int(self._sizes[index])

    def close(self) -> None:
        """Unmap the file. What `read` returned and is still held keeps it mapped until dropped."""
        self._view.release()
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> BetonReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[BetonReader], tuple[Path]]:
        return BetonReader, (self.path,)


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < HEADER.itemsize:
                raise DataError(f"{path}: too short to be a .beton file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _parse(path: Path, view: memoryview) -> np.ndarray:
    """ROW [N], the samples, after checking everything that is not pixels."""
    header = np.frombuffer(view, HEADER, 1)[0]
    if header["version"] != VERSION:
        raise DataError(f"{path}: not a .beton file of version {VERSION}")
    fields, count = int(header["num_fields"]), int(header["num_samples"])
    start, end = HEADER.itemsize + fields * DESCRIPTOR.itemsize, int(header["alloc_table_ptr"])
    if not start < end < len(view) or (len(view) - end) % ALLOCATION.itemsize:
        raise DataError(f"{path}: truncated or damaged, its allocation table is not whole")
    types = _field_types(path, np.frombuffer(view, DESCRIPTOR, fields, HEADER.itemsize))
    dtype = metadata_dtype(types)
    first_byte = start + count * dtype.itemsize
    if count == 0 or first_byte > end:
        raise DataError(f"{path}: damaged, it cannot hold the {count} samples of its header")
    metadata = np.frombuffer(view, dtype, count, start)
    image = metadata[f"f{types.index(IMAGE_FIELD)}"]
    rows = np.empty(count, ROW)
    for name in ("height", "width", "mode"):
        rows[name] = image[name]
    rows["label"] = _labels(metadata, types)
    rows["ptr"] = image["data_ptr"]
    rows["size"] = _sizes(path, np.frombuffer(view, ALLOCATION, -1, end), rows, first_byte, end)
    _check_shapes(path, rows)
    return rows


def _field_types(path: Path, descriptors: np.ndarray) -> list[int]:
    types = descriptors["type_id"].tolist()
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
    order = np.argsort(table["ptr"], kind="stable")
    positions = table["ptr"][order].astype(np.int64)
    sizes = table["size"][order].astype(np.int64)
    place = np.searchsorted(positions, rows["ptr"]).clip(max=len(table) - 1)
    # Beyond 2**63 the numbers turn negative, which fails one of these tests as it should.
    inside = (positions[place] == rows["ptr"]) & (rows["ptr"] >= first_byte)
    inside &= (sizes[place] > 0) & (sizes[place] <= end - rows["ptr"])
    if not inside.all():
        raise DataError(f"{path}: damaged, the data of sample {np.argmin(inside)} is not in it")
    return sizes[place]


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
