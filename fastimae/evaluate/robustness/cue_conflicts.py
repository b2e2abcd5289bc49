"""Cue-conflict stimuli: the shape of one category with the texture of another.

Geirhos et al. (2019). N = images, B = batch, K = classes of a classifier, G = categories.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.evaluate.images import Images, open_images
from fastimae.evaluate.robustness.classes import categories
from fastimae.evaluate.robustness.given import naming
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import LISTED
from fastimae.loaders.sources.describe import first_of

UNREAD = -1
"""The decision about an image that cannot be read."""
_NAME = re.compile(r"([a-z]+)\d*-([a-z]+)\d*", re.IGNORECASE)


class CueConflicts(NamedTuple):
    """The stimuli; categories by their position in `categories()`."""

    images: Images
    """Labelled by their own positions."""
    shape_N: NDArray[np.int64]
    texture_N: NDArray[np.int64]


def open_cue_conflicts(path: Path) -> CueConflicts:
    """Open the images of a folder, called SHAPE1-TEXTURE2, flat or in subfolders.

    Raises DataError if there are none, or names are of another form or of other categories.
    """
    with naming(f"--data {path}", path):
        images = open_images(path, flag="--data")
    files = [images.path(index) for index in range(len(images))]
    found = [_NAME.fullmatch(Path(file).stem) for file in files]
    if odd := [Path(file).name for file, match in zip(files, found, strict=True) if not match]:
        raise DataError(
            f"--data {path}: {len(odd)} of {len(files)} images are not called SHAPE1-TEXTURE2, as "
            f"cat7-elephant1.png: {first_of(odd, LISTED)}"
        )
    pairs = [[word.lower() for word in match.groups()] for match in found]
    order = list(categories())
    if unknown := sorted({word for pair in pairs for word in pair} - set(order)):
        raise DataError(
            f"--data {path}: file names have {len(unknown)} unknown categories: "
            f"{first_of(unknown, LISTED)} (known: {', '.join(order)})"
        )
    numbers = np.array([[order.index(word) for word in pair] for pair in pairs], np.int64)
    positions = np.arange(len(images))
    labelled = images.with_labels(positions, [])
    return CueConflicts(labelled, numbers[:, 0], numbers[:, 1])


def members(names: Sequence[str], given: str) -> Tensor:
    """Return the share of each class in a category's mean, float32 [K, G]; columns sum to 1.

    names: the classifier's classes: ImageNet's, or the categories themselves. given: the classifier
    as the user named it. Raises DataError if it lacks some of the classes.
    """
    position = {name: number for number, name in enumerate(names) if name}
    own = all(category in position for category in categories())
    groups = {each: (each,) for each in categories()} if own else categories()
    wanted = [name for classes in groups.values() for name in classes]
    if missing := [name for name in wanted if name not in position]:
        raise DataError(
            f"{given} does not know {len(missing)} of the {len(wanted)} classes of ImageNet that "
            f"the 16 categories consist of: {first_of(missing, LISTED)}"
        )
    share_KG = torch.zeros(len(names), len(groups))
    for column, classes in enumerate(groups.values()):
        for name in classes:
            share_KG[position[name], column] = 1 / len(classes)
    return share_KG


def decisions(logits_BK: Tensor, share_KG: Tensor) -> Tensor:
    """Return the category with the largest mean probability, int64 [B].

    The probabilities are the softmax over all classes. share_KG: see `members`.
    """
    return (logits_BK.float().softmax(dim=1) @ share_KG).argmax(dim=1)


def measures(
    decided_N: NDArray[np.int64], shape_N: NDArray[np.int64], texture_N: NDArray[np.int64]
) -> dict[str, Any]:
    """Return accuracies in percent and the bias of decisions about all images or some.

    decided_N: UNREAD for images that could not be read. "shape_accuracy" and "texture_accuracy" are
    shares of all images that were read; "shape_bias" = shape / (shape + texture), None without
    such decisions, and the numbers of decisions are of those with a conflict.
    """
    read = decided_N != UNREAD
    by_shape, by_texture = decided_N == shape_N, decided_N == texture_N
    conflict = read & (shape_N != texture_N)
    shape, texture = int((by_shape & conflict).sum()), int((by_texture & conflict).sum())
    count = max(int(read.sum()), 1)
    return {
        "shape_accuracy": 100 * int((by_shape & read).sum()) / count,
        "texture_accuracy": 100 * int((by_texture & read).sum()) / count,
        "shape_bias": shape / (shape + texture) if shape + texture else None,
        "by_shape": shape,
        "by_texture": texture,
        "by_neither": int(conflict.sum()) - shape - texture,
        "conflicts": int(conflict.sum()),
        "images": int(read.sum()),
    }


def by_category(decided_N: NDArray[np.int64], stimuli: CueConflicts) -> list[Mapping[str, Any]]:
    """Return the `measures` of the images of each shape, those with images only."""
    rows = []
    for number, name in enumerate(categories()):
        chosen = stimuli.shape_N == number
        if chosen.any():
            cues = stimuli.shape_N[chosen], stimuli.texture_N[chosen]
            rows.append({"shape": name, **measures(decided_N[chosen], *cues)})
    return rows
