"""The files of one tar archive, sorted by what they are to a data set."""

from __future__ import annotations

import dataclasses
import functools
import os
import posixpath
from collections import Counter
from pathlib import Path, PurePosixPath

from fastimae.loaders.image_formats import (
    HEAD_BYTES,
    foreign_reason,
    is_foreign_name,
    is_hidden,
    is_image_name,
)
from fastimae.loaders.items import Item, extension
from fastimae.loaders.source_published import CIFAR_FILES
from fastimae.loaders.tar_files import TarFile, tar_files
from fastimae.loaders.tar_headers import FOLDER
from fastimae.loaders.tar_samples import Label, labels_of, name_of, other_parts

_LONGEST_LABEL = 32
"""Bytes, with the spaces around it."""


@dataclasses.dataclass
class Archive:
    """What is in one archive; paths and names are those in the archive."""

    path: str
    images: list[Item] = dataclasses.field(default_factory=list)
    foreign: dict[str, str] = dataclasses.field(default_factory=dict)
    """The paths of those images that we cannot read, and why."""
    labels: dict[str, Label] = dataclasses.field(default_factory=dict)
    """What the `.cls` files say, by name."""
    published: dict[str, Item] = dataclasses.field(default_factory=dict)
    """Files of a CIFAR data set."""
    folders: set[str] = dataclasses.field(default_factory=set)
    """All that are not hidden, but for those around them."""
    image_folders: set[str] = dataclasses.field(default_factory=set)
    """Those of images, be they readable or not."""
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many files of other kinds there are, by extension."""
    parts: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many images turned out to be other parts of a sample, as masks, by extensions."""
    twins: int = 0
    """How many images without `.cls` labels have another's name but for the extension."""

    def samples(self) -> list[tuple[Item, int | None]]:
        """The images of its samples and their labels; the others go to `skipped` and `parts`.

        In an archive without `.cls` files labels are None, and of images of the same path the last
        counts, as it does after unpacking.
        """
        images = self._without_parts()
        if self.labels:
            labels = labels_of([image.member for image in images], self.labels)
        else:
            images = self._without_replaced(images)
            labels = [None] * len(images)
        samples = []
        for image, label in zip(images, labels, strict=True):
            problem = self.foreign.get(image.member, label)
            if isinstance(problem, str):
                self.skipped.append((image.name, problem))
            else:
                samples.append((image, label))
        return samples

    def _without_parts(self) -> list[Item]:
        parts = other_parts([image.member for image in self.images], self.foreign, self.labels)
        for image in self.images:
            if image.member in parts:
                self.parts["".join(PurePosixPath(image.member).suffixes[-2:])] += 1
        return [image for image in self.images if image.member not in parts]

    def _without_replaced(self, images: list[Item]) -> list[Item]:
        last = {image.member: image for image in images}
        for image in images:
            if last[image.member] is not image:
                self.skipped.append((image.name, "replaced by a later file of the same path"))
        if len({extension(path) for path in last}) > 1:
            self.twins = len(last) - len({name_of(path) for path in last})
        return [image for image in images if last[image.member] is image]

    def add(self, file: TarFile, fd: int) -> None:
        """Sort in a file; `fd` is the archive. What is in a hidden folder is hidden, too."""
        folder, name = posixpath.split(file.name)
        is_folder = file.problem == FOLDER
        if _is_hidden(file.name if is_folder else folder):
            return
        self.folders.add(file.name if is_folder else folder)
        if is_folder:
            return
        if is_image_name(name) or is_foreign_name(name):
            self.image_folders.add(folder)
        if name.endswith(".cls") and name[0] != ".":
            self._add_label(file, fd)
        elif file.problem:
            if is_image_name(name) or is_foreign_name(name) or file.is_archive:
                self.skipped.append((self._item(file).name, file.problem))
        elif is_image_name(name):
            self.images.append(self._item(file))
        elif is_foreign_name(name):
            self._add_foreign(file, fd)
        elif name in CIFAR_FILES:
            self.published[name] = self._item(file)
        elif not name.startswith("."):
            self.others[extension(name)] += 1

    def _item(self, file: TarFile) -> Item:
        return Item(self.path, file.name, file.offset, file.size)

    def _add_label(self, file: TarFile, fd: int) -> None:
        name = name_of(file.name)
        if name in self.labels:
            self.labels[name] = f"{file.name} is there twice"
        elif file.problem:
            self.labels[name] = f"{file.name}: {file.problem}"
        else:
            self.labels[name] = _read_label(file, fd)

    def _add_foreign(self, file: TarFile, fd: int) -> None:
        self.images.append(self._item(file))
        reason = foreign_reason(file.name, os.pread(fd, min(file.size, HEAD_BYTES), file.offset))
        if reason is not None:
            self.foreign[file.name] = reason


@functools.lru_cache(maxsize=1024)  # millions of files lie in a few folders
def _is_hidden(folder: str) -> bool:
    """Whether it, or one around it, is."""
    return any(is_hidden(part) for part in folder.split("/") if part not in (".", ".."))


def read_archive(path: Path) -> Archive:
    """List what a tar file holds. Raises OSError."""
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
