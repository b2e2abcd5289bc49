"""Learning from a part of the images: a share of each class, those of a list, or few.

N = images, M = chosen images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastimae.engine.checkpoint_file import LABELLED
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import check_labelled
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import printable
from fastimae.loaders.order.choice import chosen_images, flags_of_choice
from fastimae.loaders.settings import ChoiceSettings
from fastimae.log import log

Indices = NDArray[np.int64]


def choose(
    labels: Indices,
    seed: tuple[int, ...],
    *,
    fraction: float | None = None,
    shots: int | None = None,
) -> Indices:
    """Choose at random `shots` images of each class, or a `fraction` of it, at least one.

    labels: int64 [N]. The choice in a class is a function of the seed, the label and the number of
    its images alone, and a smaller one is part of a larger one. Returns positions in ascending
    order, int64 [M]; of a class with fewer images than `shots`, all.
    """
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = shots or max(1, round(fraction * len(members)))
        order = np.random.default_rng((*seed, int(label))).permutation(len(members))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def share_of_each_class(images: Images, fraction: float, seed: int) -> Images:
    """Return the images that `choose` chooses. Raises DataError for images without labels."""
    check_labelled(images)
    return _part(images, choose(images.labels, (seed,), fraction=fraction), "--label_fraction")


def images_of_list(images: Images, path: Path) -> Images:
    """Return the images that a text file lists, each once, in the order of `images`.

    A line is a file name, such as those of SimCLR's 10percent.txt, or the last parts of a path
    (class/name), or the position of an image, from 0. Empty lines and those that start with # are
    ignored. Raises DataError for entries that are not exactly one of the images.
    """
    check_labelled(images)
    return _part(images, np.unique(_positions(_entries(path), images, path)), "--label_list")


def images_of_pretraining(images: Images, choice: ChoiceSettings, seed: int) -> Images:
    """Return the images that fastimae-train trains on with the same flags and seed.

    Raises DataError for images without labels, and if there are too few.
    """
    check_labelled(images)
    chosen = chosen_images(images.labels, choice, seed)
    return _part(images, chosen, flags_of_choice(choice))


def repeated(images: Images, count: int) -> Images:
    """Return the images again and again, `count` in all, so that an epoch augments each as often
    as the next, in new ways. Raises DataError if there are more images."""
    if count < len(images):
        raise DataError(
            f"--epoch_samples {count}: an epoch of fine-tuning has all images, which are "
            f"{len(images)}: make it larger, or choose fewer images"
        )
    return images.at(np.resize(np.arange(len(images)), count))


def labelled_part(chosen: str) -> dict[str, str]:
    """Return the entry of results.json about the images trained on. chosen: `Images.chosen`."""
    return {LABELLED: chosen} if chosen else {}


def _part(images: Images, chosen: Indices, flag: str) -> Images:
    part = images.at(chosen)
    counts = np.unique(part.labels, return_counts=True)[1]
    of_each = f"{counts.min()}" + (f" to {counts.max()}" if counts.min() < counts.max() else "")
    log.info(
        "%s: %d of the %d images, %s of each of %d classes",
        flag, len(part), len(images), of_each, len(counts),
    )  # fmt: skip
    return part


def _entries(path: Path) -> list[str]:
    try:
        # Names of files need not be UTF-8.
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"--label_list {path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DataError(f"--label_list {path} is not a text file")
    lines = (line.strip() for line in text.split("\n"))
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise DataError(f"--label_list {path} lists no images")
    return entries


def _positions(entries: Sequence[str], images: Images, path: Path) -> list[int]:
    """Return the position of each entry. Raises DataError, which counts those without one."""
    names = [entry for entry in entries if not _is_position(entry)]
    if names and images.path is None:
        raise DataError(
            f"--label_list {path} has {len(names)} names of files, which {images.source} does not "
            f"keep: list positions (0 to {len(images) - 1}), or give the images as --data_path"
        )
    position_of, several = _named(images, names)
    position_of |= {
        entry: int(entry) for entry in entries if _is_position(entry) and int(entry) < len(images)
    }
    if unknown := [entry for entry in entries if entry not in position_of]:
        raise DataError(
            f"--label_list {path}: {len(unknown)} of its {len(entries)} entries are none of the "
            f"{len(images)} images of {images.source}, such as {printable(unknown[0])}"
        )
    if several:
        raise DataError(
            f"--label_list {path}: {len(several)} of its names are those of several images of "
            f"{images.source}, such as {printable(min(several))}: add their folders (class/name)"
        )
    return [position_of[entry] for entry in entries]


def _named(images: Images, names: Sequence[str]) -> tuple[dict[str, int], set[str]]:
    """Return the position of each name that is the end of a path, and the names of several."""
    position_of: dict[str, int] = {}
    several: set[str] = set()
    wanted = set(names)
    depths = {name.count("/") + 1 for name in wanted}
    for index in range(len(images) if wanted else 0):
        parts = images.path(index).split("/")
        for name in ("/".join(parts[-depth:]) for depth in depths):
            if name in wanted:
                several |= {name} & position_of.keys()
                position_of[name] = index
    return position_of, several


def _is_position(entry: str) -> bool:
    return re.fullmatch("[0-9]{1,18}", entry) is not None
