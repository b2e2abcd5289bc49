"""The image files of a data set as arrays, so that a million of them take little memory."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation, Source
from fastimae.loaders.images.band_files import first_form, open_any
from fastimae.loaders.images.bands import AnyImage
from fastimae.loaders.images.decode import reason_for
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.order.identity import identity_of
from fastimae.loaders.sources.find import find_for_loader


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The image files of a data set, each read when asked for."""

    files: NDArray[np.bytes_]
    """[N] encoded paths. One array, not N strings: reference counts of strings would make each
    forked worker copy the pages that hold them."""
    labels: NDArray[np.int64]
    """[N] number of the class folder; -1 if there are none."""

    class_names: list[str]
    """The name of each label."""
    kind: str
    """The kind of data set that was recognised, in words."""
    channels: int | None = None
    """--in_chans; None: as in the files."""

    @classmethod
    def of(cls, source: Source, channels: int | None = None) -> ImageFiles:
        """Convert a source of whole files, without a second list of all names in memory."""
        longest = max(len(os.fsencode(item.path)) for item in source.items)
        names = (os.fsencode(item.path) for item in source.items)
        labels = source.labels or np.full(len(source.items), -1)
        return cls(
            files=np.fromiter(names, f"S{longest}", len(source.items)),
            labels=np.asarray(labels, np.int64),
            class_names=source.class_names,
            kind=source.kind,
            channels=channels,
        )

    @functools.cached_property
    def form(self) -> PixelForm:
        """That of the first image that can be read. Raises DataError if none can, for --in_chans
        that only a file can explain."""
        which = range(len(self.files))
        found = first_form(self.open, which)
        found = found or first_form(lambda index: open_any(self.read(index)), which)
        if found is None and self.channels not in (None, 1, RGB8.channels):
            self._refuse()
        return found or RGB8

    def _refuse(self) -> NoReturn:
        try:
            self.open(0)
            reason = "it has changed"
        except Exception as error:  # as many kinds as there are decoders
            reason = reason_for(error)
        raise DataError(f"no image can be read: {self.path(0)}: {reason}")

    def close(self) -> None:
        """Do nothing: no file is held open."""

    def path(self, index: int) -> str:
        """Return the path of sample `index`."""
        return os.fsdecode(self.files[index])

    def read(self, index: int) -> bytes:
        """Read the bytes of the file. Raises SkipImage."""
        return ImageLocation(self.path(index)).read()

    def identity(self) -> str:
        """Identify the images and their order by the names below the folder that all are in.

        See `identity_of`.
        """
        folder = os.path.commonpath((min(self.files), max(self.files)))
        names = (name[len(folder) :] + b"\0" for name in self.files)
        return identity_of(names, len(self.files), self.read)

    def open(self, index: int) -> AnyImage:
        """Open the image, not decoded yet unless it is an array; its file is closed again."""
        return open_any(self.read(index), self.channels)


def scan_folder(
    path: str | Path, flag: str = "--data_path", channels: int | None = None
) -> ImageFiles:
    """List the image files that fastimae-convert would find in a folder, in its order.

    flag: the flag that gave the path, for messages. channels: see `ImageFiles`. Raises `DataError`
    if there are none.
    """
    if not Path(path).is_dir():
        raise DataError(f"{flag} {path}: there is no such folder")
    source = find_for_loader(path, flag)
    if not all(item.is_file for item in source.items):
        raise DataError(f"{flag} {path}: no image files, but {source.kind}; use fastimae-convert")
    return ImageFiles.of(source, channels)
