"""Images in folders: class trees, flat folders, and the splits they come in."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_formats import (
    HEAD_BYTES,
    foreign_reason,
    is_foreign_name,
    is_hidden,
    is_image_name,
    looks_like_image,
)
from fastimae.loaders.items import Item, Source, extension, shown, unreadable
from fastimae.loaders.tar_samples import other_parts

SPLITS = frozenset({"train", "val", "valid", "validation", "test", "testing", "dev", "eval"})
"""What the parts of a data set are called. A folder called train is one if another of them beside
it holds images, or no other folder does; else it is a class."""
NO_CLASS = "not in a class folder"
_Identity = tuple[int, int]


def folder_source(root: Path, class_names: list[str] | None = None) -> Source:
    """A tree of class folders (as torchvision's ImageFolder), or a flat folder without labels.

    Of a folder that holds splits `train` is taken. What cannot be read is in `skipped`.

    Args:
        class_names: the class folders in the order of their labels; by default all, sorted.
    """
    return _source(root, class_names, frozenset())


def _source(root: Path, class_names: list[str] | None, above: frozenset[_Identity]) -> Source:
    top = _look(str(root))
    above |= {_identity(top.path)}
    other = _class_beside_train(top, above) if "train" in top.folders else None
    if "train" in top.folders and other is None:
        source = _source(root / "train", class_names, above)
        source.skipped += [*top.skipped, *_loose(top)]
        source.others += top.others
        source.notes.append(shown(f"took {root / 'train'} only"))
        return source
    source = _labelled(top, class_names or top.folders, above)
    check_not_parts(source, str(root))
    if not source.items:
        source.kind, source.labels, source.class_names = "flat folder without labels", None, []
        source.items = [Item(path) for path in top.images]
    else:
        source.skipped += _loose(top)
    source.notes += _looks_like_parts(source.items)
    if other is not None:
        why = f"as there are images in {other}, too; for one of them give its own path"
        source.notes.append(shown(f"took {root / 'train'} for a class, {why}"))
    return source


def check_not_parts(source: Source, root: str) -> None:
    """Raise DataError where all classes that have images are called like parts of a data set."""
    names = [source.class_names[label] for label in sorted(set(source.labels or ()))]
    if names and SPLITS.issuperset(names):
        raise DataError(
            f"SRC: {shown(root)} has images in {', '.join(names)} only: are these parts of a data "
            "set, or classes? Give one part alone, or else rename the classes"
        )


def _labelled(top: _Folder, names: list[str], above: frozenset[_Identity]) -> Source:
    """The images in class folders."""
    walk = _Walk(above, {f"{top.path}/{name}" for name in names})
    items, labels = [], []
    for label, name in enumerate(names):
        for path in walk.images(f"{top.path}/{name}"):
            items.append(Item(path))
            labels.append(label)
    return Source(
        kind="folder of class folders",
        items=items,
        labels=labels,
        class_names=names,
        skipped=top.skipped + walk.skipped,
        others=top.others + walk.others,
    )


def _class_beside_train(top: _Folder, above: frozenset[_Identity]) -> str | None:
    """A folder that holds images and shows that `train` is a class like it, or None."""
    walk = _Walk(above, {f"{top.path}/{name}" for name in top.folders})

    def holding(names: Iterable[str]) -> Iterator[str]:
        return (name for name in names if any(walk.images(f"{top.path}/{name}")))

    if any(holding(SPLITS.intersection(top.folders) - {"train"})):
        return None
    return next(holding(name for name in top.folders if name not in SPLITS), None)


def _loose(top: _Folder) -> list[tuple[str, str]]:
    return [(shown(path), NO_CLASS) for path in top.images]


def subfolders(folder: Path) -> list[str]:
    """Names, sorted, of the folders in a folder that are not hidden. Raises OSError."""
    return _look(str(folder)).folders


def _looks_like_parts(items: list[Item]) -> list[str]:
    """A note on masks and the like, which are taken as by ImageFolder."""
    parts = sorted(other_parts([item.path for item in items], (), ()))
    if not parts:
        return []
    return [
        f"taken, though named like another part of the image beside it: {len(parts)}, as "
        f"{shown(parts[0])}; put masks elsewhere"
    ]


class _Folder(NamedTuple):
    """What is in a folder; all sorted by name, without hidden entries."""

    path: str
    folders: list[str]
    """Names."""
    images: list[str]
    """Paths, by name or, under strange names, by content."""
    skipped: list[tuple[str, str]]
    """What cannot be used, and why."""
    others: Counter[str]
    """How many files of other kinds there are, by extension."""


def _look(path: str) -> _Folder:
    """Raises OSError."""
    found = _Folder(path, [], [], [], Counter())
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not is_hidden(entry.name):
                _sort_in(entry, found)
    return found


def _sort_in(entry: os.DirEntry[str], found: _Folder) -> None:
    try:
        if entry.is_dir():
            found.folders.append(entry.name)
            return
        problem = None if entry.is_file() else _not_a_file(entry)
    except OSError as error:  # such as a link to itself
        problem = unreadable(error)
    if problem is None and not is_image_name(entry.name):
        head = _head(entry.path)
        problem = foreign_reason(entry.name, head)
        if problem is None and not looks_like_image(head):
            problem = ""
    if problem is None:
        found.images.append(entry.path)
    elif problem:
        found.skipped.append((shown(entry.path), problem))
    else:
        found.others[extension(entry.name)] += 1


def _not_a_file(entry: os.DirEntry[str]) -> str:
    """Why it cannot be used; empty if nobody would take it for an image or a folder of images."""
    if entry.is_symlink() and not Path(entry.path).exists():
        return "a broken link"
    return "not a file" if is_image_name(entry.name) or is_foreign_name(entry.name) else ""


def _head(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


class _Walk:
    """Through class folders and what is below them; links are followed, but none in circles."""

    def __init__(self, above: frozenset[_Identity], classes: set[str]) -> None:
        """above: the folder of the class folders, and those around it that are read, too."""
        self.skipped: list[tuple[str, str]] = []
        self.others: Counter[str] = Counter()
        self._above = above
        self._known = above | {_identity(path) for path in classes if Path(path).is_dir()}

    def images(self, root: str) -> Iterator[str]:
        """Paths of the images in a class folder and its subfolders, as ImageFolder sorts them.

        What cannot be used, and files of other kinds, are added to `skipped` and `others`.
        """
        seen: set[_Identity] = set()
        pending = [root] if Path(root).is_dir() else []
        while pending:
            path = heapq.heappop(pending)  # by whole path: a-b/ comes before a/c/
            try:
                identity = _identity(path)
                known = self._above if path == root else self._known
                if identity in known or identity in seen:
                    self.skipped.append((shown(path), "a link to a folder that is read already"))
                    continue
                seen.add(identity)
                folder = _look(path)
            except OSError as error:
                self.skipped.append((shown(path), unreadable(error)))
                continue
            self.skipped += folder.skipped
            self.others += folder.others
            yield from folder.images
            for name in folder.folders:
                heapq.heappush(pending, f"{path}/{name}")


def _identity(path: str) -> _Identity:
    """The same for all paths of a folder. Raises OSError."""
    status = Path(path).stat()
    return status.st_dev, status.st_ino
