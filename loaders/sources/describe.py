"""A one-line description of a data set: its kind, how many images, which classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastimae.loaders.image_location import printable

_LISTED = 5
"""Most names that are listed in full; of more, the first two and the last."""


def describe(count: int, labels: ArrayLike | None, names: Sequence[str]) -> str:
    """Describe a data set: `50000 images, 10 classes (airplane, automobile, ... truck)`.

    Classes without images are named, images without a label are counted.
    labels: of each image, negative where there is none; None: no labels at all.
    names: of each label; empty: not known.
    """
    numbers = np.asarray([] if labels is None else labels, np.int64)
    used = np.unique(numbers[numbers >= 0])
    if not len(used):
        return f"{count} images, no labels"
    classes = len(names) or int(used[-1]) + 1
    text = f"{count} images, {classes} classes "
    text += f"({in_short(names)})" if names else f"by number (0 to {classes - 1})"
    if len(used) < classes:
        text += f", {classes - len(used)} of them without images ({_first_missing(used, names)})"
    if unlabelled := int((numbers < 0).sum()):
        text += f", {unlabelled} images without a label"
    return text


def data_line(
    source: object,
    kind: str,
    count: int,
    labels: ArrayLike | None,
    names: Sequence[str],
    *,
    labels_known: bool = True,
) -> str:
    """Return the line that every command logs about its data, once for each source.

    kind: the kind of data set that was recognised, in words.
    labels_known: False if labels come with the samples, of which none was read yet.
    The others: see `describe`.
    """
    text = describe(count, labels, names) if labels_known else f"{count} images"
    return f"{source}: {kind}: {text}"


def in_short(names: Sequence[str]) -> str:
    """List all of a few names, else the first two and the last."""
    if len(names) <= _LISTED:
        return ", ".join(map(printable, names))
    return f"{printable(names[0])}, {printable(names[1])}, ... {printable(names[-1])}"


def _first_missing(used: np.ndarray, names: Sequence[str]) -> str:
    """List the first classes that are not in `used` (sorted); lazily, as there may be billions."""
    known = set(used.tolist())
    missing = (number for number in range(len(names) or int(used[-1])) if number not in known)
    return first_of((names[number] if names else str(number) for number in missing), _LISTED)


def first_of(names: Iterable[str], most: int) -> str:
    """List at most `most` names, then dots if there are more."""
    first = [printable(name) for name in itertools.islice(names, most + 1)]
    return ", ".join(first[:most]) + (", ..." if len(first) > most else "")
