"""The files of one tar archive, sorted into images, labels and others."""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
from collections import Counter
from pathlib import Path, PurePosixPath

from fastimae.loaders.image_location import ImageLocation, extension
from fastimae.loaders.images.formats import (
    HEAD_BYTES,
    is_hidden,
    is_image_name,
    is_unsupported_name,
    unsupported_reason,
)
from fastimae.loaders.sources.published import CIFAR_FILES
from fastimae.loaders.sources.tar_files import TarFile, tar_files
from fastimae.loaders.sources.tar_headers import FOLDER
from fastimae.loaders.sources.tar_samples import Label, labels_of, name_of, other_parts

_LONGEST_LABEL = 32
"""Bytes of a .cls file, including spaces around the label."""


@dataclasses.dataclass
class Archive:
    """The content of one archive; paths and names are those in the archive."""

    path: str
    images: list[ImageLocation] = dataclasses.field(default_factory=list)
    unsupported: dict[str, str] = dataclasses.field(default_factory=dict)
    """The members of `images` whose format is not supported: path and reason."""
    labels: dict[str, Label] = dataclasses.field(default_factory=dict)
    """Content of the `.cls` files, by name."""
    published: dict[str, ImageLocation] = dataclasses.field(default_factory=dict)
    """Files of a CIFAR data set."""
    folders: set[str] = dataclasses.field(default_factory=set)
    """Folders that are not hidden and have an entry or files; their parents are implied."""
    image_folders: set[str] = dataclasses.field(default_factory=set)
    """Folders with images, readable or not."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many files of other kinds there are, by extension."""
    parts: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many images are other parts of a sample, such as masks, by extensions."""
    twins: int = 0
    """How many images without `.cls` labels differ from another only in the extension."""

    def samples(self) -> list[tuple[ImageLocation, int | None]]:
        """Return the samples' images and labels; other images go to `skipped` and `parts`.

        In an archive without `.cls` files labels are None, and of several images with the same path
        only the last counts, as after unpacking.
        """
        images = self._without_parts()
        if self.labels:
            labels = labels_of([image.member for image in images], self.labels)
        else:
            images = self._without_replaced(images)
            labels = [None] * len(images)
        samples = []
        for image, label in zip(images, labels, strict=True):
            problem = self.unsupported.get(image.member, label)
            if isinstance(problem, str):
                self.skipped.append((image.name, problem))
            else:
                samples.append((image, label))
        return samples

    def _without_parts(self) -> list[ImageLocation]:
        members = [image.member for image in self.images]
        parts = other_parts(members, self.unsupported, self.labels)
        for image in self.images:
            if image.member in parts:
                self.parts["".join(PurePosixPath(image.member).suffixes[-2:])] += 1
        return [image for image in self.images if image.member not in parts]

    def _without_replaced(self, images: list[ImageLocation]) -> list[ImageLocation]:
        last = {image.member: image for image in images}
        for image in images:
            if last[image.member] is not image:
                self.skipped.append((image.name, "replaced by a later file with the same path"))
        if len({extension(path) for path in last}) > 1:
            self.twins = len(last) - len({name_of(path) for path in last})
        return [image for image in images if last[image.member] is image]

    def add(self, file: TarFile, fd: int) -> None:
        """Sort a file into its group; `fd` is the archive. Files in hidden folders are hidden."""
        folder, name = posixpath.split(file.name)
        is_folder = file.problem == FOLDER
        if _is_hidden(file.name if is_folder else folder):
            return
        self.folders.add(file.name if is_folder else folder)
        if is_folder:
            return
        if is_image_name(name) or is_unsupported_name(name):
            self.image_folders.add(folder)
        if name.endswith(".cls") and name[0] != ".":
            self._add_label(file, fd)
        elif file.problem:
            if is_image_name(name) or is_unsupported_name(name) or file.is_archive:
                self.skipped.append((self._item(file).name, file.problem))
        elif is_image_name(name):
            self.images.append(self._item(file))
        elif is_unsupported_name(name):
            self._add_unsupported(file, fd)
        elif name in CIFAR_FILES:
            self.published[name] = self._item(file)
        elif not name.startswith("."):
            self.others[extension(name)] += 1

    def _item(self, file: TarFile) -> ImageLocation:
        return ImageLocation(self.path, file.name, file.offset, file.size)

    def _add_label(self, file: TarFile, fd: int) -> None:
        name = name_of(file.name)
        if name in self.labels:
            self.labels[name] = f"{file.name} is in the archive twice"
        elif file.problem:
            self.labels[name] = f"{file.name}: {file.problem}"
        else:
            self.labels[name] = _read_label(file, fd)

    def _add_unsupported(self, file: TarFile, fd: int) -> None:
        self.images.append(self._item(file))
        head = os.pread(fd, min(file.size, HEAD_BYTES), file.offset)
        reason = unsupported_reason(file.name, head)
        if reason is not None:
            self.unsupported[file.name] = reason


@functools.lru_cache(maxsize=1024)  # millions of files are in a few folders
def _is_hidden(folder: str) -> bool:
    """Return whether a folder, or one around it, is hidden."""
    return any(is_hidden(part) for part in folder.split("/") if part not in (".", ".."))


def read_archive(path: Path) -> Archive:
    """List the content of a tar file. Raises OSError."""
    archive = Archive(str(path))
    with path.open("rb") as opened:
        fd = opened.fileno()
        for file in tar_files(fd, 0, os.fstat(fd).st_size):
            archive.add(file, fd)
    return archive


def _read_label(file: TarFile, fd: int) -> Label:
    digits = os.pread(fd, min(file.size, _LONGEST_LABEL + 1), file.offset).strip()
    if file.size > _LONGEST_LABEL or not digits.isdigit() or int(digits) >= 1 << 63:
        return f"no whole number in {file.name}"
    return int(digits)
