"""Large-scale jitter: images of all sizes on a square of one size, with their boxes and masks.

The augmentation of "Simple Copy-Paste" (arXiv:2012.07177, section 3), with which ViTDet trains.
S = side of the square, C = channels, N = objects, h, w = height, width of a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.evaluate.detection.coco import Annotations
from fastimae.evaluate.detection.outlines import Outline, Size, fill, fill_polygons
from fastimae.evaluate.detection.targets import MAX_OBJECTS, Target, make_target
from fastimae.loaders.images.pixels import MODES, converted
from fastimae.loaders.order.philox import DrawStream, KeyStream, derive_keys, philox, uniform

_FILTER = Image.Resampling.BILINEAR
_WHITE = 255
_ROUNDING = 1e-3
"""In pixels: a box that is so little beyond an edge is not cut by it."""


class View(NamedTuple):
    """The part of a resized image that is at the top left of the square."""

    scale: tuple[float, float]
    """Of columns and of rows."""
    corner: tuple[int, int]
    """The left column and the top row of the part in the resized image."""
    size: Size
    """(h, w) of the part."""
    flip: bool = False
    """Whether it is mirrored."""

    def boxes(self, boxes_N4: NDArray) -> NDArray[np.float64]:
        """Return where boxes are on the square, float64 [N, 4], also beyond the edges."""
        moved_N4 = boxes_N4.astype(np.float64) * (self.scale * 2) - (self.corner * 2)
        if self.flip:
            moved_N4[:, ::2] = self.size[1] - moved_N4[:, 2::-2]
        return moved_N4

    def image(self, image: Image.Image) -> Image.Image:
        """Return the part of an image, (w, h), without computing the rest."""
        part = image.resize(self.size[::-1], _FILTER, box=self.window(image.size))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else part

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom of the part in an image of this (width, height)."""
        starts = [at / scale for at, scale in zip(self.corner, self.scale, strict=True)]
        ends = [
            min((at + side) / scale, most)
            for at, side, scale, most
            in zip(self.corner, self.size[::-1], self.scale, size, strict=True)
        ]  # fmt: skip
        return starts[0], starts[1], ends[0], ends[1]

    def polygon(self, polygon: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the corners of a polygon, x, y, x, y, ..., are on the square."""
        corners = polygon.reshape(-1, 2) * self.scale - self.corner
        if self.flip:
            corners[:, 0] = self.size[1] - corners[:, 0]
        return corners.ravel()


class LargeScaleJitter:
    """Resizes an image at random, keeping its shape, and cuts or pads it to a square.

    What is drawn is a function of (seed, epoch, index).
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.1, 2.0),
        *,
        flip: float = 0.5,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        max_objects: int = MAX_OBJECTS,
    ) -> None:
        """size: the side S. scale: of the longer side, as shares of S. flip: probability.

        mean, std: of each channel, in 0..1; padding is the mean. max_objects: of an image with
        more, the largest are kept.
        """
        self.size, self.scale, self.flip = size, scale, flip
        self.mean, self.std, self.seed, self.max_objects = mean, std, seed, max_objects

    def __call__(
        self, image: Image.Image, annotations: Annotations, epoch: int, index: int
    ) -> tuple[NDArray[np.float32], Target]:
        """Return float32 [C, S, S], and its objects: see `Target`.

        image: RGB. Objects smaller than a pixel in either direction, and crowds, are left out.
        """
        view = self.view(image.size, epoch, index)
        pixels = on_square(view.image(image), self.size, self.mean, self.std)
        return pixels, target_in(view, annotations, self.max_objects)

    def view(self, size: tuple[int, int], epoch: int, index: int) -> View:
        """Draw the view of sample `index` in an epoch; size: its (width, height)."""
        key = derive_keys(self.seed, [index], epoch, KeyStream.SAMPLE)
        share, left, top, mirror = uniform(philox(key, [[0, 0, 0, DrawStream.CROP]]))[0]
        low, high = self.scale
        resized = fitted(size, (low + (high - low) * share) * self.size)
        part = [min(side, self.size) for side in resized]
        room = [side - kept + 1 for side, kept in zip(resized, part, strict=True)]
        return View(
            scale=(resized[0] / size[0], resized[1] / size[1]),
            corner=(int(left * room[0]), int(top * room[1])),
            size=(part[1], part[0]),
            flip=bool(mirror < self.flip),
        )


def resize_for_test(
    image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[NDArray[np.float32], View]:
    """Resize the longer side of an image to `size`, S, and pad it at the right and the bottom.

    Returns float32 [C, S, S], normalised by `mean` and `std` of each channel, and the view: boxes
    on the square are `view.scale` times those in the image, and it has `view.size` pixels (h, w).
    """
    resized = fitted(image.size, size)
    scale = resized[0] / image.width, resized[1] / image.height
    view = View(scale=scale, corner=(0, 0), size=(resized[1], resized[0]))
    return on_square(view.image(image), size, mean, std), view


def fitted(size: tuple[int, int], longer: float) -> tuple[int, int]:
    """Return the (width, height) of an image of this size whose longer side becomes `longer`."""
    ratio = longer / max(size)
    return max(1, round(size[0] * ratio)), max(1, round(size[1] * ratio))


def on_square(
    image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Return a normalised image at the top left of a square of zeros, float32 [C, size, size].

    mean, std: of each channel, in 0..1; one for gray. image: RGB.
    """
    pixels_HWC = np.asarray(converted(image, MODES[len(mean)]))
    pixels_HWC = pixels_HWC.reshape(*pixels_HWC.shape[:2], len(mean))
    square_CSS = np.zeros((len(mean), size, size), np.float32)
    # Channel by channel, in place: three times faster than on whole copies.
    for channel, (mean_, std_) in enumerate(zip(mean, std, strict=True)):
        part_HW = square_CSS[channel, : image.height, : image.width]
        np.multiply(pixels_HWC[..., channel], np.float32(1 / (_WHITE * std_)), out=part_HW)
        part_HW -= np.float32(mean_ / std_)
    return square_CSS


def target_in(view: View, annotations: Annotations, max_objects: int = MAX_OBJECTS) -> Target:
    """Return the objects that a view shows.

    A box is that of the annotation, which tests compare with. Where the view cuts an object, the
    box is cut at the edges of the view, and to the part of the mask that is left. max_objects: of
    more, those with the largest boxes are kept.
    """
    whole = view.boxes(annotations.boxes)
    boxes = whole.clip(0, view.size[::-1] * 2)
    is_cut = np.abs(whole - boxes).max(1, initial=0) > _ROUNDING
    sides = boxes[:, 2:] - boxes[:, :2]
    shown = np.flatnonzero((sides >= 1).all(1) & ~annotations.crowd)
    largest = shown[np.argsort(-sides[shown].prod(1), kind="stable")][:max_objects]
    found = []
    for row in np.sort(largest).tolist():
        part = _part(view, annotations.outlines[row], boxes[row], annotations.size)
        if part is not None:
            box = _cut(boxes[row], *part) if is_cut[row] else boxes[row]
            found.append((box, int(annotations.labels[row]), part))
    kept = [each for each in found if (each[0][2:] - each[0][:2] >= 1).all()]
    return make_target(*zip(*kept, strict=True)) if kept else make_target([], [], [])


Part = tuple[int, int, NDArray[np.bool_]]
"""Left, top and pixels, bool [h, w]."""


def _cut(
    box: NDArray[np.float64], left: int, top: int, pixels_hw: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the part of a box that is within the pixels of a mask, see `Part`.

    A side that ends within the mask's outermost pixel stays where it is: the outline is finer.
    """
    height, width = pixels_hw.shape
    edges = np.array([left, top, left + width, top + height])
    inside = np.concatenate([np.maximum(box[:2], edges[:2]), np.minimum(box[2:], edges[2:])])
    return np.where(np.abs(inside - box) < 1, box, inside)


def _part(view: View, outline: Outline, box: NDArray[np.float64], size: Size) -> Part | None:
    """Return the pixels of an object that a view shows, cut to them; None if there are none.

    box: of the object in the view. size: of the image.
    """
    if outline.runs is not None:
        return _tight(0, 0, _resized(view, fill(outline, size)))
    if not outline.polygons:
        left, top, right, bottom = np.rint(box).astype(int).tolist()
        return _tight(left, top, np.ones((bottom - top, right - left), bool))
    moved = [view.polygon(polygon) for polygon in outline.polygons]
    # Drawn in a frame around the corners: a fraction of the work of the entire view.
    corners = np.concatenate(moved).reshape(-1, 2)
    low = np.floor(corners.min(0)).clip(0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)) + 1, view.size[::-1]).astype(int)
    if (high <= low).any():
        return None
    framed = [(polygon.reshape(-1, 2) - low).ravel() for polygon in moved]
    width, height = (high - low).tolist()
    return _tight(int(low[0]), int(low[1]), fill_polygons(framed, (height, width)))


def _resized(view: View, mask_HW: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what a view shows of a mask, bool [h, w]."""
    image = Image.fromarray(mask_HW.astype(np.uint8) * _WHITE)
    return np.asarray(view.image(image)) > _WHITE // 2


def _tight(left: int, top: int, pixels_hw: NDArray[np.bool_]) -> Part | None:
    """Cut empty rows and columns off; None if nothing is left."""
    rows, columns = np.flatnonzero(pixels_hw.any(1)), np.flatnonzero(pixels_hw.any(0))
    if not len(rows):
        return None
    (top_, bottom), (left_, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    return left + left_, top + top_, pixels_hw[top_ : bottom + 1, left_ : right + 1]
