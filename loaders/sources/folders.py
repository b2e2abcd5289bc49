"""Images in folders: class folders, flat folders and folders of splits."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation, Source, extension, printable, unreadable
from fastimae.loaders.images.formats import (
    HEAD_BYTES,
    is_array_name,
    is_hidden,
    is_image_name,
    is_unsupported_name,
    looks_like_image,
    unsupported_reason,
)
from fastimae.loaders.sources.tar_samples import other_parts

SPLITS = frozenset({"train", "val", "valid", "validation", "test", "testing", "dev", "eval"})
"""Folder names that mean a part of a data set. A folder called train is such a part if another of
them beside it holds images, or if no other folder does; else it is a class."""
NO_CLASS = "not in a class folder"
_IsImage = Callable[[str], bool]
"""Tells images by name; files of other names are images by their content."""
_Identity = tuple[int, int]
"""Device and inode: the same for all paths to a folder, so that links in circles are noticed."""


def folder_source(
    root: Path, class_names: list[str] | None = None, *, arrays: bool = False
) -> Source:
    """List a folder of class folders (as torchvision's ImageFolder), or a flat one without labels.

    Of a folder of splits only `train` is used. What cannot be read is in `skipped`.

    Args:
        class_names: the class folders in the order of their labels; by default all, sorted.
        arrays: whether .npy files are images.
    """
    return _source(root, class_names, frozenset(), is_array_name if arrays else is_image_name)


def _source(
    root: Path, class_names: list[str] | None, above: frozenset[_Identity], is_image: _IsImage
) -> Source:
    top = _list_folder(str(root), is_image)
    above |= {_identity(top.path)}
    other = _class_beside_train(top, above, is_image) if "train" in top.folders else None
    if "train" in top.folders and other is None:
        source = _source(root / "train", class_names, above, is_image)
        source.skipped += [*top.skipped, *_outside_classes(top)]
        source.others += top.others
        source.kind += printable(f", {root / 'train'} only")
        return source
    source = _labelled(top, class_names or top.folders, above, is_image)
    check_not_parts(source, str(root))
    if not source.items:
        source.kind, source.labels, source.class_names = "flat folder without labels", None, []
        source.items = [ImageLocation(path) for path in top.images]
    else:
        source.skipped += _outside_classes(top)
    source.notes += _note_on_parts(source.items)
    if other is not None:
        why = f"as {other} has images too; to use one of them alone, give its path"
        source.notes.append(printable(f"treating {root / 'train'} as a class, {why}"))
    return source


def check_not_parts(source: Source, root: str) -> None:
    """Raise DataError if all classes with images are named like parts of a data set."""
    names = [source.class_names[label] for label in sorted(set(source.labels or ()))]
    if names and SPLITS.issuperset(names):
        raise DataError(
            f"SRC: {printable(root)} has images in {', '.join(names)} only: are these parts of a "
            "data set, or classes? If parts, give one of them; if classes, rename them"
        )


def _labelled(
    top: _Folder, names: list[str], above: frozenset[_Identity], is_image: _IsImage
) -> Source:
    """List the images in class folders."""
    walk = _Walk(above, {f"{top.path}/{name}" for name in names}, is_image)
    items, labels = [], []
    for label, name in enumerate(names):
        for path in walk.images(f"{top.path}/{name}"):
            items.append(ImageLocation(path))
            labels.append(label)
    return Source(
        kind="folder of class folders",
        items=items,
        labels=labels,
        class_names=names,
        skipped=top.skipped + walk.skipped,
        others=top.others + walk.others,
    )


def _class_beside_train(
    top: _Folder, above: frozenset[_Identity], is_image: _IsImage
) -> str | None:
    """Name a folder with images beside `train` that makes it a class, or None: it is a split."""
    walk = _Walk(above, {f"{top.path}/{name}" for name in top.folders}, is_image)

    def with_images(names: Iterable[str]) -> Iterator[str]:
        return (name for name in names if any(walk.images(f"{top.path}/{name}")))

    if any(with_images(SPLITS.intersection(top.folders) - {"train"})):
        return None
    return next(with_images(name for name in top.folders if name not in SPLITS), None)


def _outside_classes(top: _Folder) -> list[tuple[str, str]]:
    return [(printable(path), NO_CLASS) for path in top.images]


def subfolders(folder: Path) -> list[str]:
    """List the names of the folders in a folder, sorted, without hidden ones. Raises OSError."""
    return _list_folder(str(folder)).folders


def _note_on_parts(items: list[ImageLocation]) -> list[str]:
    """Make a note about masks and the like, which count as images, as with ImageFolder."""
    parts = sorted(other_parts([item.path for item in items], (), ()))
    if not parts:
        return []
    return [
        f"used, though named like another part of the image beside them: {len(parts)}, such as "
        f"{printable(parts[0])}; move masks elsewhere"
    ]


class _Folder(NamedTuple):
    """The content of one folder, sorted by name, without hidden entries."""

    path: str
    folders: list[str]
    """Names of the folders in it."""
    images: list[str]
    """Paths of the files that are images by name or, if the extension is unknown, by content."""
    skipped: list[tuple[str, str]]
    """What cannot be used, and why."""
    others: Counter[str]
    """How many files of other kinds there are, by extension."""


def _list_folder(path: str, is_image: _IsImage = is_image_name) -> _Folder:
    """Read one folder, without those below it. Raises OSError."""
    folder = _Folder(path, [], [], [], Counter())
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_hidden(entry.name):
                _add_entry(entry, folder, is_image)
    return folder


def _add_entry(entry: os.DirEntry[str], folder: _Folder, is_image: _IsImage) -> None:
    try:
        if entry.is_dir():
            folder.folders.append(entry.name)
            return
        problem = None if entry.is_file() else _not_a_file(entry)
    except OSError as error:  # such as a link to itself
        problem = unreadable(error)
    if problem is None and not is_image(entry.name):
        head = _head(entry.path)
        problem = unsupported_reason(entry.name, head)
        if problem is None and not looks_like_image(head):
            problem = ""
    if problem is None:
        folder.images.append(entry.path)
    elif problem:
        folder.skipped.append((printable(entry.path), problem))
    else:
        folder.others[extension(entry.name)] += 1


def _not_a_file(entry: os.DirEntry[str]) -> str:
    """Return why it cannot be used; "" if it does not look like an image or a folder of images."""
    if entry.is_symlink() and not Path(entry.path).exists():
        return "a broken link"
    return "not a file" if is_image_name(entry.name) or is_unsupported_name(entry.name) else ""


def _head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


class _Walk:
    """A walk through class folders and all below them, along links, but never in circles."""

    def __init__(self, above: frozenset[_Identity], classes: set[str], is_image: _IsImage) -> None:
        """Take class folders; above: the folder around them, and those around it that are read."""
        self._is_image = is_image
        self.skipped: list[tuple[str, str]] = []
        self.others: Counter[str] = Counter()
        self._above = above
        self._known = above | {_identity(path) for path in classes if Path(path).is_dir()}

    def images(self, root: str) -> Iterator[str]:
        """List the images in a class folder and its subfolders, in ImageFolder's order.

        What cannot be used, and files of other kinds, are added to `skipped` and `others`.
        """
        seen: set[_Identity] = set()
        pending = [root] if Path(root).is_dir() else []
        while pending:
            path = heapq.heappop(pending)  # by the full path: a-b/ comes before a/c/
            try:
                identity = _identity(path)
                known = self._above if path == root else self._known
                if identity in known or identity in seen:
                    self.skipped.append(
                        (printable(path), "a link to a folder that is already read")
                    )
                    continue
                seen.add(identity)
                folder = _list_folder(path, self._is_image)
            except OSError as error:
                self.skipped.append((printable(path), unreadable(error)))
                continue
            self.skipped += folder.skipped
            self.others += folder.others
            yield from folder.images
            for name in folder.folders:
                heapq.heappush(pending, f"{path}/{name}")


def _identity(path: str) -> _Identity:
    """Identify a folder, whatever path leads to it. Raises OSError."""
    status = Path(path).stat()
    return status.st_dev, status.st_ino
