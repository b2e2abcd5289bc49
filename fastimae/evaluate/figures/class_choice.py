"""A few of the classes of a data set, for figures with a colour for each."""

from __future__ import annotations

import numpy as np

from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import class_name
from fastimae.settings import ConfigError


def random_classes(images: Images, count: int, seed: int) -> list[int]:
    """Choose so many of the labels that occur, a function of the seed. Raises ConfigError."""
    present = np.unique(images.labels[images.labels >= 0])
    if len(present) < count:
        has = f"has {len(present)} classes" if len(present) else "has no labels"
        raise ConfigError(f"--classes {count}: {images.source} {has}")
    chosen = np.random.default_rng(seed).choice(present, count, replace=False)
    return np.sort(chosen).tolist()


def named_classes(images: Images, names: tuple[str, ...]) -> list[int]:
    """Return the labels of classes by name, or by number if names are not known.

    Raises ConfigError.
    """
    present = np.unique(images.labels[images.labels >= 0]).tolist()
    labels = {class_name(images.classes, label): label for label in present}
    labels |= {} if images.classes else {str(label): label for label in present}
    if unknown := [name for name in names if name not in labels]:
        some = ", ".join(list(labels)[:3])
        raise ConfigError(
            f"--class_names {unknown[0]}: {images.source} has no such class"
            + (f" (it has {some}, ...)" if some else ", it has no labels")
        )
    return [labels[name] for name in names]
