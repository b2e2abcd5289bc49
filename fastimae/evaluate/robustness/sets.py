"""Sets of test images by class folders, and which answers of a classifier are right for each.

F = folders, K = classes of the classifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastimae.evaluate.images import Images, open_images
from fastimae.evaluate.options.robustness import OBJECTNET
from fastimae.evaluate.robustness.classes import imagenet, objectnet, released
from fastimae.evaluate.robustness.given import naming
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import LISTED
from fastimae.loaders.sources.describe import first_of
from fastimae.log import log

RED_BORDER = 2
"""Pixels at each edge of ObjectNet's images."""
_COMPLETE = ("v2", "sketch", "imagenet")
"""Sets with images of every class."""
_WITHIN = {OBJECTNET: "images"}
"""The folder of a published set that has the folders of its classes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A set of images, each of which shows the classes of its folder."""

    name: str
    path: Path
    images: Images
    """Their labels are positions in `folders`."""
    folders: Sequence[str]
    own: bool
    """Whether the answer is the best of the set's own classes, not of all."""
    left_out: int = 0
    """Images of folders that show no class of ImageNet."""

    @property
    def given(self) -> str:
        """The set as the user named it, for errors."""
        return f"--sets {self.name}={self.path}"


def open_set(name: str, path: Path, *, own: bool) -> ImageSet:
    """Open the images of a set; own: see `ImageSet`. Raises DataError if they have no classes."""
    inside = next((path / part for part in (_WITHIN.get(name, "val"),) if (path / part).is_dir()),
                  path)  # fmt: skip
    given = f"--sets {name}={path}"
    with naming(given, path):
        images = open_images(inside, flag=f"--sets {name}")
    if (images.labels < 0).any():
        raise DataError(f"{given} has images without labels: give folders called by their classes")
    if not images.classes:
        raise DataError(f"{given}: its classes have no names: give it as folders")
    found = ImageSet(name=name, path=path, images=images, folders=images.classes, own=own)
    return _overlap(found) if name == OBJECTNET else found


def _overlap(found: ImageSet) -> ImageSet:
    """Leave out ObjectNet's folders that show no class of ImageNet, and cut off the border."""
    known = objectnet()
    wanted = {folder for folder, classes in known.items() if classes}
    _check_folders(found, set(known), wanted)
    showing = np.array([folder in wanted for folder in found.folders])
    kept = np.flatnonzero(showing[found.images.labels])
    left_out = len(found.images) - len(kept)
    log.info(
        "%s: %d of %d folders show classes of ImageNet; %d images of the others are left out, and "
        "the border of %d pixels is cut off", found.given, len(wanted), len(found.folders),
        left_out, RED_BORDER,
    )  # fmt: skip
    images = found.images.at(kept).trimmed(RED_BORDER)
    return dataclasses.replace(found, images=images, left_out=left_out)


def right_answers(found: ImageSet, names: Sequence[str]) -> Tensor:
    """Return which classes are right for the images of each folder, bool [F, K].

    names: the classifier's classes. A folder is called by its class; where no folder is, and all
    are numbers, as in ImageNet-v2, they are positions in ImageNet's classes, or in those of a
    classifier of other classes. Raises DataError for folders that the classifier does not know, and
    for a published set of which folders are missing.
    """
    position = {name: number for number, name in enumerate(names) if name}
    of_folder = _classes_of(found, names)
    shown = _present(found)
    unknown = [
        folder for folder in shown if any(name not in position for name in of_folder[folder])
    ]
    if unknown:
        raise DataError(
            f"{found.given} has {len(unknown)} folders of classes that the classifier does not "
            f"know: {first_of(unknown, LISTED)} (it knows {len(position)}: "
            f"{first_of(position, LISTED)})"
        )
    _check_complete(found, {name for folder in shown for name in of_folder[folder]}, position)
    right_FK = torch.zeros(len(found.folders), len(names), dtype=torch.bool)
    for row, folder in enumerate(found.folders):
        for name in of_folder[folder]:
            if name in position:  # a folder without images need not be known
                right_FK[row, position[name]] = True
    return right_FK


def _classes_of(found: ImageSet, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes that each folder shows."""
    if found.name == OBJECTNET:
        return {folder: objectnet()[folder] for folder in found.folders}
    numbered = all(folder.isdecimal() for folder in found.folders)
    if not numbered or set(found.folders) & set(names):
        return {folder: (folder,) for folder in found.folders}
    of_imagenet = set(filter(None, names)) <= set(imagenet())
    order = imagenet() if of_imagenet else tuple(names)
    whose = "ImageNet's classes" if of_imagenet else "the classifier's classes"
    log.info("%s: its folders are numbers, which are taken for positions in %s", found.given, whose)
    return {
        folder: (order[int(folder)] if int(folder) < len(order) else folder,)
        for folder in found.folders
    }


def _present(found: ImageSet) -> list[str]:
    """Return the folders that have images."""
    return [found.folders[label] for label in np.unique(found.images.labels)]


def _check_complete(found: ImageSet, shown: set[str], known: Sequence[str]) -> None:
    """Raise DataError if a published set lacks classes that the classifier knows."""
    expected = set(known) if found.name in _COMPLETE else released(found.name) & set(known)
    if missing := sorted(expected - shown):
        raise _lacks(found, missing, len(expected))


def _check_folders(found: ImageSet, known: set[str], wanted: set[str]) -> None:
    """Raise DataError for folders that a published set has not, and for missing ones."""
    shown = set(_present(found))
    if unknown := sorted(shown - known):
        raise DataError(
            f"{found.given} has {len(unknown)} folders that {found.name} has not: "
            f"{first_of(unknown, LISTED)}"
        )
    if missing := sorted(wanted - shown):
        raise _lacks(found, missing, len(wanted))


def _lacks(found: ImageSet, missing: Sequence[str], expected: int) -> DataError:
    return DataError(
        f"{found.given} has no images of {len(missing)} of its {expected} classes: "
        f"{first_of(missing, LISTED)}; get all of the set, or give this part another name, such as "
        f"part={found.path}"
    )
