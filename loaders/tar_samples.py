"""Which files of a WebDataset sample are the image and its label, decided from names alone.

The rules, also told in docs/sources.md; "name" is without the last extension:

1. `a.seg.png` beside `a.jpg` is another part of that sample, not an image of its own: its name goes
   on where that of an image ends, after a dot and not with numbers only. So is a file that we
   cannot read beside an image of the same name. A file with a label of its own is an image.
2. `a.cls` is the label of the image named a, or, if there is none, of the only image whose name
   starts with `a.`. Where two images or two labels could be meant, none is given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

Label = int | str
"""A label, or why there is none."""


def name_of(path: str) -> str:
    """The path without its last extension."""
    return path.rpartition(".")[0]


def other_parts(
    images: Collection[str], foreign: Collection[str], labels: Collection[str]
) -> set[str]:
    """Those images, by path, that are not the image of their sample (rule 1).

    Args:
        foreign: those of `images` that we cannot read.
        labels: names of the label files.
    """
    if not foreign and not any(map(_longer_than, images)):
        return set()  # the usual case, which need not take memory
    names = {name_of(path) for path in images}
    read = {name_of(path) for path in images if path not in foreign}

    def is_part(path: str) -> bool:
        if path in foreign and name_of(path) in read:
            return True
        return name_of(path) not in labels and any(start in names for start in _longer_than(path))

    return {path for path in images if is_part(path)}


def labels_of(images: Collection[str], labels: Mapping[str, Label]) -> list[Label]:
    """The label of each image, by path (rule 2).

    Args:
        labels: what the label files say, by name.
    """
    own = Counter(name_of(path) for path in images)
    longer = Counter(start for path in images for start in _starts(path) if start in labels)

    def label_of(path: str) -> Label:
        name = name_of(path)
        if name in labels:
            return labels[name] if own[name] == 1 else f"{own[name]} images for {name}.cls"
        found = [start for start in _starts(path) if start in labels]
        if len(found) != 1:
            return f"no {name}.cls" if not found else f"{found[0]}.cls or {found[1]}.cls"
        count = own[found[0]] + longer[found[0]]
        return labels[found[0]] if count == 1 else f"{count} images for {found[0]}.cls"

    return [label_of(path) for path in images]


def _starts(path: str) -> Iterator[str]:
    """`d/a.b`, `d/a` for d/a.b.c.jpg: the names that a sample of this file may have."""
    start = name_of(path)
    while "." in start[start.rfind("/") + 2 :]:
        start = name_of(start)
        yield start


def _longer_than(path: str) -> list[str]:
    """Those starts that more than numbers follow: `a.1.jpg` may be the image after `a.jpg`."""
    name = name_of(path)
    return [s for s in _starts(path) if not name[len(s) :].replace(".", "").isdecimal()]
