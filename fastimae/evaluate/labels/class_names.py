"""Translating the labels of test images to those of training, by the names of the classes.

Class k of a folder with some of the classes is not class k of all of them. So if both sides have
names, labels are renumbered by name. Otherwise numbers have to match, and a folder with some of the
classes is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastimae.engine.checkpoint_file import CLASSES, args_in
from fastimae.evaluate.images import Images
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import LISTED
from fastimae.loaders.sources.describe import first_of, in_short
from fastimae.log import log

MOST_CLASSES = 1 << 20
"""A classifier of more classes takes gigabytes; labels as large as that number something else."""


def match_training(train: Images, val: Images, classes: int | None = None) -> tuple[Images, int]:
    """Return `val` with labels as `train` numbers its classes, and the number of classes.

    classes: the number to use if it is not that of `train`. Raises DataError for images without
    labels, and for classes in `val` that training does not know.
    """
    check_labelled(train)
    if train.fingerprint == val.fingerprint and train is not val:
        log.warning("%s is both trained on and tested on", train.source)
    classes = classes or class_count(train)
    if classes > MOST_CLASSES:
        raise DataError(
            f"{train.source}: labels up to {classes - 1} would be {classes} classes: number them "
            "from 0, or name another field of a .beton file as --label_field"
        )
    return match_classes(train.classes or [], val, classes), classes


def class_name(names: Sequence[str] | None, label: int) -> str:
    """Return the name of a label, or its number in words if names are not known."""
    return names[label] if names and 0 <= label < len(names) else f"class {label}"


def class_count(images: Images) -> int:
    """Return the number of classes, those without images included."""
    return len(images.classes or ()) or int(images.labels.max()) + 1


def match_classes(names: Sequence[str], images: Images, classes: int) -> Images:
    """Return `images` with labels as training numbers its classes.

    names: the training's names, in the order of its labels; empty if unknown. classes: number of
    training's. Logs how classes were matched, unless both sides have the same. Raises DataError for
    images without labels, for classes that training does not know, and for a folder of some classes
    if there are no names to match.
    """
    check_labelled(images)
    names = names or _imagenets(images, classes)
    if not names or not images.classes:
        return _by_number(images, classes, not names)
    return images if list(names) == images.classes else _by_name(names, images)


def _imagenets(images: Images, classes: int) -> list[str]:
    """Return ImageNet's class names for 1000 classes without names, if the images use them."""
    if classes != 1000 or not images.classes:
        return []
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    if not set(images.classes).issubset(names):
        return []
    log.info("%s: the classes of training are taken for ImageNet's 1000", images.source)
    return names


def check_labelled(images: Images, needed_by: str = "this task") -> None:
    """Raise DataError unless all images have labels. needed_by: for the error."""
    if (images.labels < 0).any():
        advice = f"; {images.advice}" if images.advice else ""
        raise DataError(
            f"{images.source} has images without labels, which {needed_by} needs{advice}"
        )


def check_two_classes(images: Images) -> None:
    """Raise DataError unless there are two classes to distinguish."""
    if len(np.unique(images.labels)) < 2:
        raise DataError(f"{images.source} has images of one class only: this task needs two")


def _by_name(names: Sequence[str], images: Images) -> Images:
    present = np.unique(images.labels)
    used = [images.classes[label] for label in present]
    _check_names(names, used, images)
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of[name] for name in used], np.int64)
    log.info(
        "%s: %d of the %d classes of training, matched by name",
        images.source, len(present), len(names),
    )  # fmt: skip
    labels = numbers[np.searchsorted(present, images.labels)]
    return images.with_labels(labels, list(names))


def _check_names(names: Sequence[str], used: Sequence[str], images: Images) -> None:
    for side in (names, used):
        twice = [name for name, count in Counter(side).items() if count > 1]
        if twice:
            raise DataError(
                f"{images.source} cannot be matched by the names of its classes, as several are "
                f"called {', '.join(twice)}"
            )
    if unknown := sorted(set(used) - set(names)):
        raise DataError(
            f"{images.source} has {_unknown(unknown)} (it knows {len(names)}: {in_short(names)})"
        )


def _by_number(images: Images, classes: int, training_has_none: bool) -> Images:
    present = np.unique(images.labels)
    if unknown := present[present >= classes].tolist():
        raise DataError(
            f"{images.source} has {_unknown(map(str, unknown))} (it knows 0 to {classes - 1})"
        )
    if len(images.classes or ()) not in (0, classes):
        raise DataError(
            f"{images.source} has {len(images.classes)} classes ({in_short(images.classes)}), and "
            f"training {classes} without names: give images of all classes, which may have empty "
            "folders, or the classifier in a file that keeps its names (docs/checkpoints.md)"
        )
    if len(present) < classes:
        log.info(
            "%s: %d of the %d classes of training, matched by number, as %s has no class names",
            images.source, len(present), classes, "training" if training_has_none else "it",
        )  # fmt: skip
    return images


def _unknown(names: Iterable[str]) -> str:
    return f"classes that training does not know: {first_of(names, LISTED)}"


def names_in(settings: Mapping[str, Any]) -> list[str]:
    """Return the class names in a classifier's settings; empty if there are none."""
    names = settings.get(CLASSES)
    return names if isinstance(names, list) else []


def check_same_classes(path: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise DataError if the classifier to resume has other classes than this run.

    content: of the file `path`. now: the settings of the run that would resume it.
    """
    old, new = names_in(args_in(content)), names_in(now)
    if old and new and old != new:
        raise DataError(
            f"--resume {path} is of {len(old)} classes ({in_short(old)}); this run has {len(new)} "
            f"({in_short(new)}): give the images that it was trained on, or another --output_dir"
        )
