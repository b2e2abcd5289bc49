"""The image and the label among the files of a WebDataset sample, decided from names alone.

The rules are also in docs/sources.md; a "name" is a path without its last extension:

1. `a.seg.png` beside `a.jpg` is another part of that sample, not a separate image: its name
   continues an image's name after a dot, and not with numbers only. The same holds for a file of an
   unsupported format beside an image of the same name. A file with its own label is always an
   image.
2. `a.cls` is the label of the image named a or, if there is none, of the only image whose name
   starts with `a.`. If two images or two labels are possible, there is no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

Label = int | str
"""A label, or why there is none."""


def name_of(path: str) -> str:
    """Strip the last extension from a path."""
    return path.rpartition(".")[0]


def other_parts(
    images: Collection[str], unsupported: Collection[str], labels: Collection[str]
) -> set[str]:
    """Return the paths of those images that are another part of a sample (rule 1).

    Args:
        unsupported: those of `images` whose format is not supported.
        labels: names of the label files.
    """
    if not unsupported and not any(map(_continued_names, images)):
        return set()  # the usual case, without the sets below, which take memory
    names = {name_of(path) for path in images}
    readable = {name_of(path) for path in images if path not in unsupported}

    def is_part(path: str) -> bool:
        if path in unsupported and name_of(path) in readable:
            return True
        return name_of(path) not in labels and any(s in names for s in _continued_names(path))

    return {path for path in images if is_part(path)}


def labels_of(images: Collection[str], labels: Mapping[str, Label]) -> list[Label]:
    """Return the label of each image, given by path (rule 2).

    Args:
        labels: content of the label files, by name.
    """
    same_name = Counter(name_of(path) for path in images)
    longer_name = Counter(start for path in images for start in _starts(path) if start in labels)

    def label_of(path: str) -> Label:
        name = name_of(path)
        if name in labels:
            count = same_name[name]
            return labels[name] if count == 1 else f"{count} images for {name}.cls"
        shorter = [start for start in _starts(path) if start in labels]
        if len(shorter) != 1:
            return f"no {name}.cls" if not shorter else f"{shorter[0]}.cls or {shorter[1]}.cls"
        count = same_name[shorter[0]] + longer_name[shorter[0]]
        return labels[shorter[0]] if count == 1 else f"{count} images for {shorter[0]}.cls"

    return [label_of(path) for path in images]


def _starts(path: str) -> Iterator[str]:
    """Yield the sample names that a file may belong to: `d/a.b`, `d/a` for d/a.b.c.jpg."""
    start = name_of(path)
    while "." in start[start.rfind("/") + 2 :]:
        start = name_of(start)
        yield start


def _continued_names(path: str) -> list[str]:
    """List the starts followed by more than numbers: `a.1.jpg` may be the image after `a.jpg`."""
    name = name_of(path)
    return [s for s in _starts(path) if not name[len(s) :].replace(".", "").isdecimal()]
