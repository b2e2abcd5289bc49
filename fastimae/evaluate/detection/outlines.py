"""Outlines of objects, polygons or runs of pixels, as COCO files have them; the pixels inside.

H, W = height, width of an image.
"""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import mask as library
from numpy.typing import NDArray

Size = tuple[int, int]
"""(height, width)"""
_CORNERS = 3
_REACH = 16
"""A polygon's corners are within so many sides of its image: far ones take the library's memory."""
_DIGITS, _MORE, _NEGATIVE, _FIRST_CHARACTER = 5, 0x20, 0x10, 48
"""Of COCO's compressed runs: bits of a character, a flag and a sign among them, and its zero."""


class Outline(NamedTuple):
    """The outline of one object: its polygons, or the runs of its pixels; it may have neither."""

    polygons: tuple[NDArray[np.float64], ...] = ()
    """x, y, x, y, ... of the corners of each: the pixel (0, 0) reaches from 0 to 1."""
    runs: NDArray[np.int64] | None = None
    """Pixels outside, inside, outside, ... down the columns, from the left."""

    @property
    def is_known(self) -> bool:
        """Whether there is an outline at all."""
        return bool(self.polygons) or self.runs is not None


class Outlines:
    """The outlines of many objects in a few arrays: forked workers share them without copies."""

    def __init__(self, outlines: Iterable[Outline]) -> None:
        """Copy the numbers of the outlines, one after the other."""
        numbers, ends, last, is_runs = array.array("d"), array.array("q"), array.array("q"), []
        for outline in outlines:
            has_runs = outline.runs is not None
            for part in [outline.runs] if has_runs else outline.polygons:
                numbers.frombytes(part.astype(np.float64).tobytes())
                ends.append(len(numbers))
            last.append(len(ends))
            is_runs.append(has_runs)
        self.numbers = np.frombuffer(numbers, np.float64) if numbers else np.empty(0)
        self.ends = np.array([0, *ends], np.int64)
        self.parts = np.array([0, *last], np.int64)
        self.is_runs = np.array(is_runs, bool)

    def __len__(self) -> int:
        return len(self.is_runs)

    def __getitem__(self, index: int) -> Outline:
        parts = range(self.parts[index], self.parts[index + 1])
        found = tuple(self.numbers[self.ends[part] : self.ends[part + 1]] for part in parts)
        return Outline(runs=found[0].astype(np.int64)) if self.is_runs[index] else Outline(found)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which objects have an outline, bool [N]."""
        return np.diff(self.parts) > 0


def read_outline(segmentation: Any, size: Size) -> Outline:
    """Return the outline of COCO's entry "segmentation": polygons, or runs, compressed or not.

    size: of the image. Polygons of fewer than three corners are left out, as by pycocotools.
    Raises ValueError if the entry is of another form, or does not fit the image.
    """
    if not segmentation:
        return Outline()
    if isinstance(segmentation, dict):
        return Outline(runs=_read_runs(segmentation, size))
    if isinstance(segmentation, list) and isinstance(segmentation[0], list):
        found = (_read_polygon(each, size) for each in segmentation)
        return Outline(tuple(each for each in found if len(each) >= 2 * _CORNERS))
    raise ValueError("its segmentation is neither polygons, [[x, y, ...]], nor run lengths")


def _read_polygon(corners: list[float], size: Size) -> NDArray[np.float64]:
    polygon = np.array(corners, np.float64)
    if polygon.ndim != 1 or len(polygon) % 2:
        raise ValueError("a polygon is not x, y, x, y, ...")
    if not (np.abs(polygon) <= _REACH * max(size)).all():
        raise ValueError("a polygon is far outside of its image")
    return polygon


def _read_runs(segmentation: dict[str, Any], size: Size) -> NDArray[np.int64]:
    counts, given = segmentation.get("counts"), segmentation.get("size")
    runs = decompress(counts) if isinstance(counts, str | bytes) else np.array(counts, np.int64)
    if given is None or tuple(given) != tuple(size):
        raise ValueError(f"its run lengths are for a size of {given}, and the image has {size}")
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError("its run lengths do not cover the image")
    return runs


def decompress(text: str | bytes) -> NDArray[np.int64]:
    """Return the run lengths, int64 [N], in COCO's compressed text. Raises ValueError.

    A number is written in characters of 5 bits, the lowest first, with a flag for more to follow;
    from the fourth on it is the difference to the number two before.
    """
    data = text.encode("latin-1", "replace") if isinstance(text, str) else text
    characters = np.frombuffer(data, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    is_last = (characters & _MORE) == 0
    if not len(characters) or characters.min() < 0 or characters.max() > 63 or not is_last[-1]:
        raise ValueError("its compressed run lengths are damaged")
    starts = np.concatenate([[0], np.flatnonzero(is_last)[:-1] + 1])
    places = np.arange(len(characters)) - np.repeat(starts, np.diff([*starts, len(characters)]))
    if places.max() > 7:  # more than 40 bits
        raise ValueError("its compressed run lengths are damaged")
    numbers = np.add.reduceat((characters & 0x1F) << (_DIGITS * places), starts)
    is_negative = (characters[is_last] & _NEGATIVE) != 0
    numbers -= is_negative << (_DIGITS * (places[is_last] + 1))
    for first in (1, 2):
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def fill(outline: Outline, size: Size) -> NDArray[np.bool_]:
    """Return the pixels inside an outline, bool [H, W], of an image of this size."""
    if outline.runs is not None:
        inside = np.arange(len(outline.runs)) % 2 == 1
        return np.repeat(inside, outline.runs).reshape(size[1], size[0]).T
    return fill_polygons(outline.polygons, size)


def fill_polygons(polygons: Sequence[NDArray[np.float64]], size: Size) -> NDArray[np.bool_]:
    """Return the pixels in any of the polygons, bool [H, W], as COCO's own library draws them."""
    if not polygons:
        return np.zeros(size, bool)
    return library.decode(_runs_of_polygons(polygons, size)).astype(bool)


def compressed(outline: Outline, size: Size) -> dict[str, Any]:
    """Return COCO's compressed runs of an outline: {"size": [H, W], "counts": bytes}.

    size: (H, W) of the image.
    """
    if outline.polygons:
        return _runs_of_polygons(outline.polygons, size)
    return library.encode(np.asfortranarray(fill(outline, size), np.uint8))


def _runs_of_polygons(polygons: Sequence[NDArray[np.float64]], size: Size) -> dict[str, Any]:
    return library.merge(library.frPyObjects([polygon.tolist() for polygon in polygons], *size))
