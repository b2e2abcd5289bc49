"""Few images: which of a data set's images a run trains on (--images, --images_from).

The choice is a function of the seed and the labels alone. Of the images, and of each class, a
smaller choice is part of a larger one.

N = images of the data set, M = chosen images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import printable
from fastimae.loaders.order.philox import KeyStream, derive_keys
from fastimae.loaders.settings import ChoiceSettings
from fastimae.log import log

Indices = NDArray[np.int64]


def chosen_images(labels: Indices, choice: ChoiceSettings, seed: int) -> Indices:
    """Return the positions of the images that a run uses, int64 [M] in ascending order.

    labels: int64 [N], -1 if unknown. Raises `DataError` if there are not as many, or if classes are
    asked for and an image has none.
    """
    if not choice.chooses_images:
        return np.arange(len(labels))
    order = np.argsort(derive_keys(seed, np.arange(len(labels)), 0, KeyStream.CHOICE))
    if choice.images_from != "random":
        _check_labelled(labels, choice)
    if choice.images_from == "one_class":
        order = order[labels[order] == _one_class(labels, choice.images or 1, seed)]
    elif choice.images_from == "one_per_class":
        order = order[np.sort(np.unique(labels[order], return_index=True)[1])]
    if choice.images and choice.images > len(order):
        of = "classes" if choice.images_from == "one_per_class" else "images"
        raise DataError(f"{flags_of_choice(choice)}: there are only {len(order)} {of}")
    return np.sort(order[: choice.images])


def log_choice(
    labels: Indices, chosen: Indices, choice: ChoiceSettings, names: Sequence[str]
) -> None:
    """Log how many images and classes were chosen, and which class if it is one; nothing if all
    images are used. names: of each label; empty: not known."""
    if len(chosen) == len(labels):
        return
    classes = np.unique(labels[chosen])
    text = f"{len(classes)} classes" if (classes >= 0).all() else "no labels"
    if text == "1 classes":
        name = f" ({printable(names[classes[0]])})" if names else ""
        text = f"class {classes[0]}{name}"
    log.info("%s: %d of the %d images, %s", flags_of_choice(choice), len(chosen), len(labels), text)


def _one_class(labels: Indices, least: int, seed: int) -> int:
    """Draw a class among those with `least` images or more. Raises DataError if there is none."""
    classes, counts = np.unique(labels, return_counts=True)
    enough = classes[counts >= least]
    if not len(enough):
        raise DataError(
            f"--images {least} --images_from one_class: the largest class has {counts.max()} images"
        )
    return enough[derive_keys(seed, enough, 0, KeyStream.CHOICE, copies=1).argmin()]


def _check_labelled(labels: Indices, choice: ChoiceSettings) -> None:
    if (labels < 0).any():
        raise DataError(
            f"--images_from {choice.images_from} needs a label for every image, and some have none"
        )


def flags_of_choice(choice: ChoiceSettings) -> str:
    """Return the flags that a choice was made with, for messages."""
    number = f"--images {choice.images}" if choice.images else ""
    whence = f"--images_from {choice.images_from}" if choice.images_from != "random" else ""
    return f"{number} {whence}".strip()
