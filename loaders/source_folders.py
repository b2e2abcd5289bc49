"""Images in folders: class trees, flat folders, and the splits they come in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastimae.loaders.image_formats import (
    HEAD_BYTES,
    foreign_reason,
    is_foreign_name,
    is_image_name,
    looks_like_image,
)
from fastimae.loaders.items import Item, Source, extension, shown, unreadable
from fastimae.loaders.tar_samples import other_parts

SPLITS = frozenset({"train", "val", "valid", "validation", "test", "testing", "dev", "eval"})
"""What the parts of a data set are called."""


def folder_source(root: Path, class_names: list[str] | None = None) -> Source:
    """A tree of class folders (as torchvision's ImageFolder), or a flat folder without labels.

    Of a folder that holds splits and no images itself, `train` is taken. What cannot be read is in
    `skipped`.

    Args:
        class_names: the class folders in the order of their labels; by default all, sorted.
    """
    top = _look(str(root))
    if _holds_splits(top):
        source = folder_source(root / "train", class_names)
        source.skipped += top.skipped
        source.others += top.others
        source.notes.append(f"took {root / 'train'}: {root} itself has no images")
        return source
    names = class_names or top.folders
    source = Source(
        kind="folder of class folders",
        items=[],
        labels=[],
        class_names=names,
        skipped=top.skipped,
        others=top.others,
    )
    for label, name in enumerate(names):
        for path in _images_below(str(root / name), source.skipped, source.others):
            source.items.append(Item(path))
            source.labels.append(label)
    if source.items:
        source.notes += _looks_like_parts(source.items)
        source.skipped += [(path, "not in a class folder") for path in top.images]
        return source
    items = [Item(path) for path in top.images]
    return Source(
        kind="flat folder without labels",
        items=items,
        skipped=source.skipped,
        others=source.others,
        notes=_looks_like_parts(items),
    )


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
            if not entry.name.startswith("."):
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


def _holds_splits(top: _Folder) -> bool:
    """Whether `train` is a split here, not a class called train."""
    if "train" not in top.folders or top.images:
        return False
    others = set(top.folders) - SPLITS
    return not any(any(_images_below(f"{top.path}/{name}", [], Counter())) for name in others)


def _images_below(root: str, skipped: list[tuple[str, str]], others: Counter[str]) -> Iterator[str]:
    """Sorted paths of the images in a folder and its subfolders; links are followed.

    What cannot be used, and files of other kinds, are added to `skipped` and `others`.
    """
    seen = set()
    pending = [root] if Path(root).is_dir() else []
    while pending:
        path = pending.pop()
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in seen:  # it may lead back up
                skipped.append((shown(path), "a link to a folder that is read already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            folder = _look(path)
        except OSError as error:
            skipped.append((shown(path), unreadable(error)))
            continue
        skipped += folder.skipped
        others += folder.others
        yield from folder.images
        pending += [f"{path}/{name}" for name in reversed(folder.folders)]
