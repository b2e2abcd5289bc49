"""The image files of a data set, undecoded, for a decoder that takes JPEGs and nothing else."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.beton import BetonReader
from fastimae.loaders.imagefolder import Folder
from fastimae.loaders.items import SkipImage, Source
from fastimae.loaders.jpeg import read_jpeg_header
from fastimae.loaders.limits import max_pixels, open_image
from fastimae.loaders.pillow_loader import open_sample
from fastimae.loaders.sources import find_for_loader
from fastimae.loaders.survey import Survey, survey_files, survey_sizes
from fastimae.loaders.what_is import is_beton


class Jpeg(NamedTuple):
    """A JPEG that every decoder reads alike, see `JpegInfo.is_plain`."""

    data: bytes | memoryview
    height: int
    width: int


class Encoded(abc.ABC):
    """Samples by index: by `jpeg` those that are one, by `open` any of them, for Pillow."""

    labels: NDArray[np.int64]
    """[N], -1 where there are none."""
    class_names: list[str]
    """The name of each label; empty where names are not known."""
    kind: str
    """What it was taken for, in words."""

    @abc.abstractmethod
    def read(self, index: int) -> bytes | memoryview:
        """The sample's bytes. Raises SkipImage."""

    @abc.abstractmethod
    def jpeg(self, index: int) -> Jpeg | None:
        """The sample's bytes; None if it is another format, damaged, or too large."""

    @abc.abstractmethod
    def open(self, index: int) -> Image.Image:
        """The sample for Pillow. Raises if it is broken."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """How messages call the sample."""

    def survey(self) -> Survey:
        """What some of the samples are like."""
        return survey_files(self.open, len(self.labels))

    def close(self) -> None:  # noqa: B027
        """Release files."""


class EncodedBeton(Encoded):
    """The samples of a `.beton` file, which it closes.

    Damage is looked for when a sample is first used, see `BetonReader.problem`.
    """

    def __init__(self, reader: BetonReader) -> None:
        self.reader, self.labels = reader, reader.labels
        self.class_names, self.kind = reader.class_names, reader.kind
        self._good = np.zeros(len(reader), bool)

    def read(self, index: int) -> memoryview:
        return self.reader.read(index)

    def jpeg(self, index: int) -> Jpeg | None:
        if not self.reader.is_jpeg[index]:
            return None
        data = self.reader.read(index)
        size = int(self.reader.heights[index]), int(self.reader.widths[index])
        if not self._good[index]:
            found = _plain_jpeg(data)
            fits = found is not None and (found.height, found.width) == size
            self._good[index] = fits and self.reader.problem(index) is None
        return Jpeg(data, *size) if self._good[index] else None

    def open(self, index: int) -> Image.Image:
        return open_sample(self.reader, index)

    def survey(self) -> Survey:
        return survey_sizes(self.reader.heights, self.reader.widths)

    def name(self, index: int) -> str:
        return f"sample {index} of {self.reader.path}"

    def close(self) -> None:
        self.reader.close()


class EncodedFiles(Encoded):
    """Image files, each read when it is needed."""

    def jpeg(self, index: int) -> Jpeg | None:
        try:
            return _plain_jpeg(self.read(index))
        except SkipImage:
            return None

    def open(self, index: int) -> Image.Image:
        return open_image(self.read(index))


class EncodedFolder(EncodedFiles):
    """The files of a folder or a list; a million of them take little memory."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.labels = folder, folder.labels
        self.class_names, self.kind = folder.class_names, folder.kind

    def read(self, index: int) -> bytes:
        return self.folder.read(index)

    def name(self, index: int) -> str:
        return self.folder.path(index)


class EncodedItems(EncodedFiles):
    """What lies in tars or CIFAR's files."""

    def __init__(self, source: Source) -> None:
        self.items = source.items
        self.class_names, self.kind = source.class_names, source.kind
        labels = source.labels or np.full(len(source.items), -1)
        self.labels = np.asarray(labels, np.int64)

    def read(self, index: int) -> bytes:
        return self.items[index].read()

    def name(self, index: int) -> str:
        return self.items[index].name


def find_encoded(src: str | Path, **beton_settings: Any) -> Encoded:
    """The samples of a .beton file, or of whatever fastimae-convert takes (docs/sources.md).

    beton_settings: see `BetonReader`. Raises `DataError` if there are none.
    """
    if is_beton(src):
        return EncodedBeton(BetonReader(src, **beton_settings))
    source = find_for_loader(src, "--dali")
    if all(item.is_file for item in source.items):
        return EncodedFolder(Folder.of(source))
    return EncodedItems(source)


def _plain_jpeg(data: bytes | memoryview) -> Jpeg | None:
    info = read_jpeg_header(data)
    if info is None or not info.is_plain or info.height * info.width > max_pixels():
        return None
    return Jpeg(data, info.height, info.width)
