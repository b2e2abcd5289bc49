"""Lists of classes: ImageNet's, those of its variants, ObjectNet's folders, the 16 categories.

ImageNet's classes are called by their WordNet numbers (n01440764), as its folders are. The files in
class_lists/ say where they are from, and their licences.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources

from timm.data import ImageNetInfo

_RELEASED = {"r": "imagenet_r_synsets.txt", "a": "imagenet_a_synsets.txt"}
"""timm's lists of the 200 classes of ImageNet-R and of ImageNet-A."""


@functools.cache
def imagenet() -> tuple[str, ...]:
    """Return ImageNet's 1000 classes in the order of its labels."""
    return tuple(ImageNetInfo().label_names())


@functools.cache
def released(name: str) -> frozenset[str]:
    """Return the classes of a published set of 200 classes, "r" or "a"; none for another name."""
    if name not in _RELEASED:
        return frozenset()
    file = resources.files("timm.data") / "_info" / _RELEASED[name]
    return frozenset(file.read_text(encoding="utf-8").split())


@functools.cache
def objectnet() -> Mapping[str, tuple[str, ...]]:
    """Return the classes of ImageNet that each of ObjectNet's 313 folders shows; () for 200."""
    return _table("objectnet.tsv")


@functools.cache
def categories() -> Mapping[str, tuple[str, ...]]:
    """Return the classes of ImageNet that belong to each of the 16 categories."""
    return _table("sixteen.tsv")


def _table(name: str) -> dict[str, tuple[str, ...]]:
    """Read lines of a name, a tab, and WordNet numbers between commas."""
    text = (resources.files(__package__) / "class_lists" / name).read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {key: tuple(filter(None, classes.split(","))) for key, classes in rows}
