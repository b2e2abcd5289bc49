"""Pairs of image and mask, by the names of their files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path

from fastimae.evaluate.segmentation.layouts import Place
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.formats import is_hidden, is_image_name
from fastimae.loaders.sources.describe import first_of
from fastimae.log import log

_LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif"}
_NAMED = 3
"""Files that a message names, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Images and their masks, in the order of their names."""

    names: list[str]
    """The paths of images below their folder, without extension."""
    images: list[str]
    masks: list[str]


def find_pairs(place: Place) -> Pairs:
    """Return the images of a split with their masks.

    A mask has the name of its image, but for the extension; subfolders are searched. Masks without
    an image are counted in a warning. Raises DataError if there are no images, for images
    without a mask, and for two files of one name.
    """
    masks = _by_name(place.masks)
    images = _listed(place) if place.listed else _by_name(place.images)
    if not images:
        raise DataError(f"{place.listed or place.images} has no images")
    _check_all_masked(place, images, masks)
    unused = len(masks) - len(images)
    if unused and not place.listed:
        log.warning("%s: %d masks have no image and are not used", place.masks, unused)
    names = sorted(images)
    _check_lossless(masks[name] for name in names)
    return Pairs(
        names=names,
        images=[images[name] for name in names],
        masks=[masks[name] for name in names],
    )


def _by_name(folder: Path) -> dict[str, str]:
    """Return the paths of the image files in a folder, by name without extension."""
    found: dict[str, str] = {}
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for file in filter(is_image_name, sorted(files)):
            path = Path(where) / file
            name = str(path.relative_to(folder).with_suffix(""))
            if name in found:
                raise DataError(f"{found[name]} and {file} have the same name: keep one of them")
            found[name] = str(path)
    return found


def _listed(place: Place) -> dict[str, str]:
    """Return the images in a list: a name a line, or paths of image and mask as some lists have.

    Raises DataError for names without an image.
    """
    known = _by_name(place.images)
    lines = place.listed.read_text(encoding="utf-8-sig").split("\n")
    names = [line.strip() for line in lines if line.strip()]
    names = [name if name in known else Path(name.split()[0]).stem for name in names]
    if missing := [name for name in names if name not in known]:
        raise DataError(
            f"{place.listed}: {len(missing)} of {len(names)} images are not in {place.images} "
            f"({first_of(missing, _NAMED)})"
        )
    return {name: known[name] for name in names}


def _check_all_masked(place: Place, images: dict[str, str], masks: dict[str, str]) -> None:
    missing = sorted(name for name in images if name not in masks)
    if missing:
        raise DataError(
            f"{place.images}: {len(missing)} of {len(images)} images have no mask "
            f"({first_of(missing, _NAMED)}): add {missing[0]}.png to {place.masks}, or remove them"
        )


def _check_lossless(masks: Iterable[str]) -> None:
    for path in masks:
        if Path(path).suffix.lower() in _LOSSY:
            raise DataError(f"{path} is a JPEG, which changes class numbers: write masks as PNG")
