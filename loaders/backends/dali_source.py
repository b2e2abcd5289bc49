"""The undecoded samples of a data set, with the plain JPEGs among them for decoders like DALI."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage, Source
from fastimae.loaders.images.bands import check_ordinary
from fastimae.loaders.images.jpeg import read_jpeg_header
from fastimae.loaders.images.limits import max_pixels, open_image
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.sources.find import find_for_loader
from fastimae.loaders.sources.image_files import ImageFiles
from fastimae.loaders.sources.survey import Survey, survey_files, survey_sizes
from fastimae.loaders.sources.what_is import is_beton


class Jpeg(NamedTuple):
    """A JPEG that every decoder reads alike (see `JpegInfo.is_plain`), and its size in pixels."""

    data: bytes | memoryview
    height: int
    width: int


class JpegSource(abc.ABC):
    """The samples of a data set by index: `jpeg` returns plain JPEGs, `open` opens any image."""

    labels: NDArray[np.int64]
    """int64 [N], -1 where there are none."""
    class_names: list[str]
    """The name of each label; empty where names are not known."""
    kind: str
    """The kind of data set that was recognised, in words."""
    form: PixelForm = RGB8

    @abc.abstractmethod
    def read(self, index: int) -> bytes | memoryview:
        """Return the sample's bytes. Raises SkipImage."""

    @abc.abstractmethod
    def jpeg(self, index: int) -> Jpeg | None:
        """Return the sample as a plain JPEG; None if it is something else, damaged or too large."""

    @abc.abstractmethod
    def open(self, index: int) -> Image.Image:
        """Open the sample with Pillow. Raises if it is broken."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Return the sample's name in messages."""

    @abc.abstractmethod
    def identity(self) -> str:
        """Identify the images and their order: see `identity_of`. Raises DataError."""

    def survey(self) -> Survey:
        """Look at some of the samples: their sizes and depths."""
        return survey_files(self.open, len(self.labels))

    def close(self) -> None:  # noqa: B027
        """Release files."""


class BetonJpegs(JpegSource):
    """The samples of a `.beton` file, which it closes.

    A sample is checked for damage when it is first used, see `BetonReader.problem`.
    """

    def __init__(self, reader: BetonReader) -> None:
        self.reader, self.labels = reader, reader.labels
        self.class_names, self.kind = reader.class_names, reader.kind
        check_ordinary(reader.form, reader.path, "--dali")
        self._good = np.zeros(len(reader), bool)

    def read(self, index: int) -> memoryview:
        return self.reader.read(index)

    def jpeg(self, index: int) -> Jpeg | None:
        if not self.reader.is_jpeg[index]:
            return None
        data = self.reader.read(index)
        size = int(self.reader.heights[index]), int(self.reader.widths[index])
        if not self._good[index]:
            plain = _plain_jpeg(data)
            fits = plain is not None and (plain.height, plain.width) == size
            self._good[index] = fits and self.reader.problem(index) is None
        return Jpeg(data, *size) if self._good[index] else None

    def open(self, index: int) -> Image.Image:
        return open_sample(self.reader, index)

    def survey(self) -> Survey:
        return survey_sizes(self.reader.heights, self.reader.widths)

    def name(self, index: int) -> str:
        return f"sample {index} of {self.reader.path}"

    def identity(self) -> str:
        return self.reader.identity()

    def close(self) -> None:
        self.reader.close()


class FileJpegs(JpegSource):
    """Image files, each read when it is needed."""

    def jpeg(self, index: int) -> Jpeg | None:
        try:
            return _plain_jpeg(self.read(index))
        except SkipImage:
            return None

    def open(self, index: int) -> Image.Image:
        return open_image(self.read(index))


class FolderJpegs(FileJpegs):
    """The image files of a folder or a list, kept compactly: a million take little memory."""

    def __init__(self, files: ImageFiles) -> None:
        self.files, self.labels = files, files.labels
        self.class_names, self.kind = files.class_names, files.kind

    def read(self, index: int) -> bytes:
        return self.files.read(index)

    def name(self, index: int) -> str:
        return self.files.path(index)

    def identity(self) -> str:
        return self.files.identity()


class EmbeddedJpegs(FileJpegs):
    """Images inside tars or CIFAR's files."""

    def __init__(self, source: Source) -> None:
        self.items = source.items
        self.class_names, self.kind = source.class_names, source.kind
        labels = source.labels or np.full(len(source.items), -1)
        self.labels = np.asarray(labels, np.int64)

    def read(self, index: int) -> bytes:
        return self.items[index].read()

    def name(self, index: int) -> str:
        return self.items[index].name

    def identity(self) -> str:
        raise DataError(
            "--pseudo_labels are labels of a .beton file or of a folder, not of files that hold "
            "many images: convert them with fastimae-convert, and give --ffcv"
        )


def find_jpegs(src: str | Path, **beton_settings: Any) -> JpegSource:
    """Find the samples of a .beton file, or of any source of fastimae-convert (docs/sources.md).

    beton_settings: see `BetonReader`. Raises `DataError` if there are no samples.
    """
    if is_beton(src):
        return BetonJpegs(BetonReader(src, **beton_settings))
    source = find_for_loader(src, "--dali", arrays=False)
    if all(item.is_file for item in source.items):
        return FolderJpegs(ImageFiles.of(source))
    return EmbeddedJpegs(source)


def _plain_jpeg(data: bytes | memoryview) -> Jpeg | None:
    info = read_jpeg_header(data)
    if info is None or not info.is_plain or info.height * info.width > max_pixels():
        return None
    return Jpeg(data, info.height, info.width)
