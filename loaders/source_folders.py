"""Images in folders: class trees, flat folders, and the splits they come in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fastimae.loaders.items import Item, Source

_IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "avif", "bmp", "gif", "tif", "tiff"}
    | {"ppm", "pgm", "pbm", "pnm"}
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_SPLITS = {"train", "val", "valid", "validation", "test", "testing", "dev", "eval"}


def is_image_name(name: str) -> bool:
    """Whether a file is called like an image; hidden files are not."""
    return not name.startswith(".") and name.rpartition(".")[2].lower() in _IMAGE_SUFFIXES


def folder_source(root: Path, class_names: list[str] | None = None) -> Source:
    """A tree of class folders (as torchvision's ImageFolder), or a flat folder without labels.

    Of a folder that holds splits and no images itself, `train` is taken.

    Args:
        class_names: the class folders in the order of their labels; by default all, sorted.
    """
    if _holds_splits(root):
        source = folder_source(root / "train", class_names)
        source.notes.append(f"took {root / 'train'}: {root} itself has no images")
        return source
    loose = list(_images_directly_in(root))
    names = class_names or _subfolders(root)
    items, labels = [], []
    for label, name in enumerate(names):
        found = list(_images_below(root / name))
        items += [Item(path) for path in found]
        labels += [label] * len(found)
    if not items:
        return Source(kind="flat folder without labels", items=[Item(path) for path in loose])
    return Source(
        kind="folder of class folders",
        items=items,
        labels=labels,
        class_names=names,
        skipped=[(path, "not in a class folder") for path in loose],
    )


def _holds_splits(root: Path) -> bool:
    """Whether `train` is a split here, not a class called train."""
    folders = _subfolders(root)
    if "train" not in folders or any(_images_directly_in(root)):
        return False
    return not any(any(_images_below(root / name)) for name in set(folders) - _SPLITS)


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _images_directly_in(folder: Path | str) -> Iterator[str]:
    """Sorted paths of the images in a folder, by name or, under strange names, by content."""
    with os.scandir(folder) as entries:
        files = sorted((e.name, e.path) for e in entries if e.is_file() and e.name[0] != ".")
    for name, path in files:
        if is_image_name(name) or _starts_like_image(path):
            yield path


def _images_below(folder: Path) -> Iterator[str]:
    """Sorted paths of the images in a folder and its subfolders; links are followed."""
    if not folder.is_dir():
        return
    seen = set()
    for path, folders, _ in os.walk(folder, followlinks=True, onerror=_raise):
        status = Path(path).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from _images_directly_in(path)


def _raise(error: OSError) -> None:
    """For `os.walk`, which else leaves out what it cannot read."""
    raise error


def _starts_like_image(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            return file.read(8).startswith(_SIGNATURES)
    except OSError:
        return False
