"""Where the images and masks of a data set are: folders of pairs, VOC's layout, ADE20K's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from fastimae.evaluate.options.segment import Layout
from fastimae.evaluate.segmentation.class_names import ADE20K, VOC, check_names, object_info
from fastimae.loaders.errors import DataError

Split = Literal["train", "val"]

LOOKED_FOR = {
    "ade20k": "images/training with annotations/training (ADE20K)",
    "voc": "JPEGImages with SegmentationClass and ImageSets/Segmentation (VOC)",
    "folders": "train/images with train/masks, or images/train with masks/train",
}
"""What each layout is recognised by; the first that fits is taken."""
_SPLITS = {"train": ("train", "training"), "val": ("val", "validation")}
_MASKS = ("masks", "annotations", "labels")
_VOC_HOMES = ("", "VOC2012", "VOCdevkit/VOC2012")
_ADE_HOMES = ("", "ADEChallengeData2016")
_LISTS = "ImageSets/Segmentation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """Where the images and the masks of a split are."""

    images: Path
    masks: Path
    layout: str
    """In words, for the log."""
    home: Path
    """The folder that the layout begins in: a classes.txt is there."""
    listed: Path | None = None
    """A text file that lists the images by name; None: all that are in the folder."""
    first: int = 0
    """The value of class 0 in masks. Smaller ones do not count."""
    names: list[str] | None = None
    """Of the classes, if the layout knows them."""


def find_place(root: Path, split: Split, layout: Layout, flag: str = "--data") -> Place:
    """Return where images and masks of a split of the data set at `root` are.

    layout: "auto" recognises it by its folders. flag: the flag that gave `root`, for messages.
    Raises DataError if there is no such folder, layout or split, and says what was looked for.
    """
    if not root.is_dir():
        raise DataError(f"{flag} {root}: there is no such folder")
    kinds = tuple(LOOKED_FOR) if layout == "auto" else (layout,)
    for kind in kinds:
        if place := _PLACES[kind](root, split):
            return place
    for kind in kinds:
        for other in get_args(Split):
            if found := _PLACES[kind](root, other):
                raise DataError(
                    f"{flag} {root} has no {split} split, only {found.images.relative_to(root)} "
                    f"for {other}: add {_wanted(kind, split)}"
                )
    raise DataError(
        f"{flag} {root} has no images with masks: looked for "
        + "; ".join(LOOKED_FOR[kind] for kind in kinds)
    )


def _wanted(kind: str, split: Split) -> str:
    """Return what a layout has for a split."""
    if kind == "voc":
        return f"{_LISTS}/{split}.txt"
    return LOOKED_FOR[kind].partition(" (")[0].replace("train", _SPLITS[split][0])


def _folders(root: Path, split: Split) -> Place | None:
    for name in _SPLITS[split]:
        for kind in _MASKS:
            for images, masks in (
                (root / name / "images", root / name / kind),
                (root / "images" / name, root / kind / name),
            ):
                if images.is_dir() and masks.is_dir():
                    return Place(images=images, masks=masks, layout="image and mask folders",
                                 home=root)  # fmt: skip
    return None


def _voc(root: Path, split: Split) -> Place | None:
    """Find VOC's folders. The augmented training set is used if its list and masks are there."""
    for home in (root / name for name in _VOC_HOMES):
        for listed, masks in _voc_lists(home, split):
            if listed.is_file() and masks.is_dir() and (home / "JPEGImages").is_dir():
                return Place(images=home / "JPEGImages", masks=masks, home=home, names=VOC,
                             layout=f"VOC layout, {listed.name}", listed=listed)  # fmt: skip
    return None


def _voc_lists(home: Path, split: Split) -> Iterator[tuple[Path, Path]]:
    """Yield lists of images, and the folder of their masks, the preferred ones first."""
    if split == "train":
        yield home / _LISTS / "trainaug.txt", home / "SegmentationClassAug"
    yield home / _LISTS / f"{split}.txt", home / "SegmentationClass"


def _ade20k(root: Path, split: Split) -> Place | None:
    name = {"train": "training", "val": "validation"}[split]
    for home in (root / name for name in _ADE_HOMES):
        images, masks = home / "images" / name, home / "annotations" / name
        if images.is_dir() and masks.is_dir():
            return Place(images=images, masks=masks, home=home, first=1, names=_ade_names(home),
                         layout="ADE20K layout, 0 does not count")  # fmt: skip
    return None


def _ade_names(home: Path) -> list[str]:
    """Return the names in objectInfo150.txt, or those that are known."""
    path = home / "objectInfo150.txt"
    if not path.is_file() or not (names := object_info(path)):
        return ADE20K
    check_names(names, str(path))
    return names


_PLACES = {"ade20k": _ade20k, "voc": _voc, "folders": _folders}
