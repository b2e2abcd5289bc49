"""What a data set holds, in one line: how many images, which classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastimae.loaders.items import shown

_LISTED = 5
"""Names; of more, the first two and the last."""


def describe(count: int, labels: ArrayLike | None, names: Sequence[str]) -> str:
    """50000 images, 10 classes (airplane, automobile, ... truck).

    labels: one for each image, negative where there is none; None: no labels. names: of each label;
    empty: not known. Says which classes have no images, and how many images have no label.
    """
    numbers = np.asarray([] if labels is None else labels, np.int64)
    found = np.unique(numbers[numbers >= 0])
    if not len(found):
        return f"{count} images, no labels"
    classes = len(names) or int(found[-1]) + 1
    text = f"{count} images, {classes} classes "
    text += f"({in_short(names)})" if names else f"by number (0 to {classes - 1})"
    if len(found) < classes:
        text += f", {classes - len(found)} of them without images ({_first_missing(found, names)})"
    if unlabelled := int((numbers < 0).sum()):
        text += f", {unlabelled} images without a label"
    return text


def in_short(names: Sequence[str]) -> str:
    """All of a few names, else the first two and the last."""
    if len(names) <= _LISTED:
        return ", ".join(map(shown, names))
    return f"{shown(names[0])}, {shown(names[1])}, ... {shown(names[-1])}"


def _first_missing(found: np.ndarray, names: Sequence[str]) -> str:
    """The first classes not among `found`, which is sorted; there may be billions of them."""
    known = set(found.tolist())
    missing = (number for number in range(len(names) or int(found[-1])) if number not in known)
    return first_of((names[number] if names else str(number) for number in missing), _LISTED)


def first_of(names: Iterable[str], most: int) -> str:
    """So many names, and dots if there are more."""
    first = [shown(name) for name in itertools.islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")
