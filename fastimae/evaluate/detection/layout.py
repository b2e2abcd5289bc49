"""Finds the annotations of a split and its images, in COCO's layout and in those of other tools."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fastimae.loaders.errors import DataError
from fastimae.log import log

Split = Literal["train", "val"]
NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation")}
"""What the folders and files of a split are called."""
_PATTERNS = (
    "annotations/instances_{name}*.json",  # COCO's
    "{name}/_annotations.coco.json",  # Roboflow's
    "annotations/{name}*.json",
    "{name}*.json",
)
"""Where annotations are, the first that is there."""
_TRIED = 20
"""Images of a file that are looked for in a folder."""


def find_annotations(root: Path, split: Split, given: Path | None = None) -> Path:
    """Return the file with a split's annotations below `root`, or the one that was given.

    Raises DataError if there is none, or if there are several to choose from.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"--{split}_annotations {given}: there is no such file")
        return given
    if not root.is_dir():
        raise DataError(f"--coco {root}: there is no such folder")
    for pattern in _PATTERNS:
        found = {path for name in NAMES[split] for path in root.glob(pattern.format(name=name))}
        if len(found) > 1:
            names = ", ".join(sorted(str(path.relative_to(root)) for path in found))
            raise DataError(f"--coco {root} has {names}: choose one as --{split}_annotations")
        if found:
            return found.pop()
    places = ", ".join(pattern.format(name=split) for pattern in _PATTERNS[:2])
    raise DataError(
        f"--coco {root} has no annotations of {split} ({places}): give the file as "
        f"--{split}_annotations"
    )


def find_images(root: Path, split: Split, annotations: Path, names: Sequence[str]) -> Path:
    """Return the folder in which the images are that an annotation file names.

    names: of the images, as in the file. Raises DataError if the first ones are nowhere.
    """
    tried = list(dict.fromkeys(_folders(root, split, annotations)))
    some = names[:_TRIED]
    for folder in tried:
        if any((folder / name).is_file() for name in some):
            return folder
    for folder in _other_folders(root):
        if all((folder / name).is_file() for name in some):
            log.info("%s: the images are in %s", annotations, folder)
            return folder
    places = ", ".join(str(folder) for folder in tried if folder.is_dir())
    raise DataError(
        f"--{split}_annotations {annotations}: its images, such as {names[0]}, are not in {places}"
    )


def _folders(root: Path, split: Split, annotations: Path) -> Iterator[Path]:
    """Yield the folders in which the images should be, COCO's own first."""
    stem = annotations.name.removeprefix("instances_").removesuffix(".json")
    for name in (stem, *NAMES[split]):
        yield root / name
        yield root / "images" / name
    yield from (annotations.parent, annotations.parent / "images", root / "images", root)


def _other_folders(root: Path) -> Iterator[Path]:
    """Yield all folders: annotations of a part of train may be used for validation."""
    for parent in (root, root / "images"):
        yield from sorted(path for path in parent.glob("*") if path.is_dir())


def files_in(folder: Path, names: Sequence[str]) -> list[bool]:
    """Return whether each of the files is in the folder, or in a folder below it.

    A folder is listed once: asking for 100,000 files one by one takes minutes on a network drive.
    """
    listed: dict[str, set[str]] = {}
    found = []
    for name in names:
        parent, file = os.path.split(folder / name)
        if parent not in listed:
            listed[parent] = _listing(parent)
        found.append(file in listed[parent])
    return found


def _listing(folder: str) -> set[str]:
    """Return the names in a folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError:
        return set()
