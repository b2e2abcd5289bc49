"""Pictures of detections: annotations beside what was found, and precision over recall.

N = objects of an image, H, W = height, width of the image, R = recalls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from fastimae.evaluate.detection.coco import Annotations, CocoScenes
from fastimae.evaluate.detection.found import Found
from fastimae.loaders.image_location import SkipImage, printable
from fastimae.pictures.plots import COLORS, plain_style, plt, save_figure

LEAST_SCORE = 0.5
"""Detections below are not drawn: Mask R-CNN reports up to 100 of each image."""
_CELL_INCHES = 3.2
_OPACITY = 0.4
_HALF_PIXEL = 0.5
"""matplotlib's first pixel reaches from -0.5 to 0.5."""
_MIDDLE, _TOP = 0.5, 0.08
"""Titles of boxes that begin right of the middle end where the box does; near the top they are
inside of it."""
_CHARACTERS = 24
"""Of a class that are drawn: so that no title is wider than half of an image."""
_CROWD = " (crowd)"
_LINES = {"AP50": ("IoU 0.5, boxes", COLORS[0], "-"), "AP75": ("IoU 0.75, boxes", COLORS[1], "-"),
          "AP50_mask": ("IoU 0.5, masks", COLORS[0], "--"),
          "AP75_mask": ("IoU 0.75, masks", COLORS[1], "--")}  # fmt: skip


class Drawn(NamedTuple):
    """The objects to draw into an image."""

    boxes: NDArray[np.float32]
    """[N, 4] left, top, right, bottom"""
    labels: NDArray[np.int64]
    """[N] from 1"""
    titles: list[str]
    """N: class and score"""
    masks: NDArray[np.bool_] | None
    """[N, H, W]; None: boxes alone."""


def draw_detections(
    scenes: CocoScenes,
    found: Mapping[int, Found],
    indices: Iterable[int],
    path: Path,
    *,
    least_score: float = LEAST_SCORE,
) -> None:
    """Draw a row for each image: its annotations, and beside them what was found.

    found: detections by the number of the image, as `CocoScores.found`. indices: the images to
    draw; those that cannot be read are left out, and nothing is written if none can. least_score:
    of the detections that are drawn.
    """
    rows = []
    for index in indices:
        try:
            image, annotations = scenes.read(index)
        except SkipImage:
            continue
        truth = _of_annotations(annotations, scenes)
        rows.append((image, truth, _of_detections(found.get(index), scenes, least_score)))
    if rows:
        _draw_rows(rows, path, f"detections with a score of at least {least_score:g}")


def draw_curves(recalls_R: Sequence[float], curves: Mapping[str, Any], path: Path) -> None:
    """Draw precision over recall, both in percent.

    recalls_R: shares. curves: as of `CocoScores.curves`, [R] each.
    """
    with plain_style():
        figure, axis = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
        for name, precision_R in curves.items():
            label, color, style = _LINES[name]
            mean = f"{np.mean(precision_R):.1f}"
            axis.plot(
                100 * np.asarray(recalls_R), precision_R, style, color=color,
                label=f"{label}: {name.removesuffix('_mask')} {mean}",
            )  # fmt: skip
        axis.set(
            xlabel="recall (%)", ylabel="precision (%)", xlim=(0, 100), ylim=(0, 102),
            title="mean over classes",
        )  # fmt: skip
        axis.legend()
        save_figure(figure, path)


def _of_annotations(annotations: Annotations, scenes: CocoScenes) -> Drawn:
    crowd = [_CROWD * bool(each) for each in annotations.crowd]
    names = [_name(scenes, label) for label in annotations.labels]
    return Drawn(
        boxes=annotations.boxes,
        labels=annotations.labels,
        titles=[f"{name}{mark}" for name, mark in zip(names, crowd, strict=True)],
        masks=annotations.masks if scenes.has_masks else None,
    )


def _of_detections(found: Found | None, scenes: CocoScenes, least_score: float) -> Drawn:
    if found is None:
        return Drawn(np.empty((0, 4), np.float32), np.empty(0, np.int64), [], None)
    shown = np.flatnonzero(found.scores >= least_score)
    shown = shown[np.argsort(found.scores[shown], kind="stable")]  # the surest on top
    return Drawn(
        boxes=found.boxes[shown],
        labels=found.labels[shown],
        titles=[f"{_name(scenes, found.labels[row])} {found.scores[row]:.2f}" for row in shown],
        masks=found.masks(shown) if found.runs else None,
    )


def _name(scenes: CocoScenes, label: int) -> str:
    name = printable(scenes.classes[label - 1])
    return name if len(name) <= _CHARACTERS else f"{name[: _CHARACTERS - 1]}…"


def _draw_rows(rows: Sequence[tuple[Image.Image, Drawn, Drawn]], path: Path, note: str) -> None:
    heights = [image.height / image.width for image, _, _ in rows]
    with plain_style():
        figure, axes = plt.subplots(
            len(rows), 2, squeeze=False, layout="constrained", height_ratios=heights,
            figsize=(2 * _CELL_INCHES, _CELL_INCHES * sum(heights) + 0.5),
        )  # fmt: skip
        for axis, title in zip(axes[0], ("annotations", "found"), strict=True):
            axis.set_title(title, fontsize=9)
        for line, (image, *both) in zip(axes, rows, strict=True):
            for axis, drawn in zip(line, both, strict=True):
                _draw(axis, image, drawn)
        figure.supxlabel(note, fontsize=7)
        save_figure(figure, path)


def _draw(axis: Axes, image: Image.Image, drawn: Drawn) -> None:
    """Draw an image with masks, boxes and titles."""
    axis.imshow(image)
    axis.grid(False)
    axis.set_axis_off()
    if drawn.masks is not None and len(drawn.masks):
        axis.imshow(_overlay(drawn.masks, drawn.labels))
    for (left, top, right, bottom), label, title in zip(
        drawn.boxes - _HALF_PIXEL, drawn.labels, drawn.titles, strict=True
    ):
        color = _color(label)
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False,
                                 color=color, linewidth=1.4))  # fmt: skip
        at_right, at_top = left > _MIDDLE * image.width, top < _TOP * image.height
        axis.text(
            right if at_right else left, top, title, fontsize=6, color="white", clip_on=True,
            ha="right" if at_right else "left", va="top" if at_top else "bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def _overlay(masks_NHW: NDArray[np.bool_], labels_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return masks in the colours of their classes, float32 [H, W, 4] with opacity."""
    overlay_HW4 = np.zeros((*masks_NHW.shape[1:], 4), np.float32)
    for mask_HW, label in zip(masks_NHW, labels_N, strict=True):
        overlay_HW4[mask_HW] = (*_color(label), _OPACITY)
    return overlay_HW4


def _color(label: int) -> tuple[float, float, float]:
    return COLORS[(int(label) - 1) % len(COLORS)]
