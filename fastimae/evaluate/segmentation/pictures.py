"""Pictures of predicted masks beside the truth, and a chart of the IoU of each class.

H, W = height and width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from fastimae.evaluate.segmentation.masks import IGNORE
from fastimae.pictures.picture_table import CHARACTER_INCHES
from fastimae.pictures.plots import COLORS, plain_style, plt, save_figure

COLUMNS = ("image", "truth", "prediction", "errors (red)")
WRONG = (230, 30, 30)
"""The colour of pixels that are predicted wrong, among the errors."""
_CELL_INCHES = 1.8
_LINE_INCHES = 0.16
"""The height of a class in a legend or chart."""
_IN_LEGEND = 24
"""Classes in a legend, at most: those with the most pixels."""


class DrawnScene(NamedTuple):
    """A scene with its prediction."""

    name: str
    image: NDArray[np.uint8]
    """RGB, [H, W, 3]."""
    truth: NDArray[np.integer]
    """Numbers of classes, or `IGNORE`, [H, W]."""
    predicted: NDArray[np.integer]
    """Numbers of classes, [H, W]."""


def palette() -> NDArray[np.uint8]:
    """Return the colour of each number from 0 to 255, [256, 3], by VOC's rule.

    Bits 0, 1, 2 of a number are the highest bits of red, green and blue, bits 3, 4, 5 the next.
    """
    numbers, colours = np.arange(256)[:, None], np.zeros((256, 3), np.uint8)
    for place in range(3):
        bits = numbers >> (3 * place + np.arange(3)) & 1
        colours |= (bits << (7 - place)).astype(np.uint8)
    return colours


def draw_scenes(
    scenes: Sequence[DrawnScene], classes: Sequence[str], path: Path, note: str = ""
) -> None:
    """Draw a row for each scene: image, truth, prediction and errors, with a legend of classes.

    classes: the name of each. path: of the PNG file. note: text below. Where the truth does not
    count, truth and errors have the colour of `IGNORE`.
    """
    height = _CELL_INCHES * max(scene.image.shape[0] / scene.image.shape[1] for scene in scenes)
    shown = _most_seen(scenes, classes)
    lines = math.ceil(len(shown) / len(COLUMNS))
    heights = [height] * len(scenes) + [lines * _LINE_INCHES]
    figure = plt.figure(
        layout="constrained", figsize=(_CELL_INCHES * len(COLUMNS) + 0.3, sum(heights) + 0.6)
    )
    grid = figure.add_gridspec(len(heights), len(COLUMNS), height_ratios=heights)
    for row, scene in enumerate(scenes):
        for column, picture in enumerate(pictures_of(scene)):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(picture, interpolation="antialiased")
            axis.set(xticks=[], yticks=[], title=COLUMNS[column] if row == 0 else "")
            axis.spines[:].set_visible(False)
        figure.axes[-len(COLUMNS)].set_ylabel(_end_of(scene.name, height), fontsize=7)
    for column, numbers in enumerate(_parts(shown, lines)):
        _draw_legend(figure.add_subplot(grid[-1, column]), numbers, classes, lines)
    figure.supxlabel(note, fontsize=7, wrap=True)
    save_figure(figure, path)


def pictures_of(scene: DrawnScene) -> tuple[NDArray[np.uint8], ...]:
    """Return the pictures of a row, uint8 [H, W, 3] each, in the order of `COLUMNS`."""
    colours = palette()
    counts = scene.truth != IGNORE
    gray = scene.image.mean(-1, keepdims=True) / 2 + 96
    errors = np.repeat(gray, 3, axis=-1).astype(np.uint8)
    errors[counts & (scene.truth != scene.predicted)] = WRONG
    errors[~counts] = colours[IGNORE]
    return scene.image, colours[scene.truth], colours[scene.predicted], errors


def draw_class_iou(iou: Mapping[str, float | None], path: Path, title: str = "") -> None:
    """Draw a bar for the IoU of each class, in percent, the best first, and their mean.

    iou: by name, None for a class that does not occur, which is left out. path: of the PNG file.
    title: above the chart.
    """
    found = {name: value for name, value in iou.items() if value is not None}
    names = sorted(found, key=found.__getitem__)
    with plain_style():
        size = 6.4, _LINE_INCHES * len(names) + 1.0
        figure, axis = plt.subplots(layout="constrained", figsize=size)
        bars = axis.barh(names, [found[name] for name in names], color=COLORS[0])
        axis.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
        mean = sum(found.values()) / len(found)
        axis.axvline(mean, color=COLORS[1], label=f"mean {mean:.2f} %")
        axis.set(xlabel="IoU (%)", xlim=(0, 107), ylim=(-0.6, len(names) - 0.4), title=title)
        axis.tick_params("y", labelsize=7)
        axis.grid(visible=False, axis="y")
        axis.legend(loc="lower right")
        save_figure(figure, path)


def _most_seen(scenes: Sequence[DrawnScene], classes: Sequence[str]) -> list[int]:
    """Return the numbers of the classes to explain, in order: those with the most pixels."""
    counts = np.zeros(256, np.int64)
    for scene in scenes:
        for mask in (scene.truth, scene.predicted):
            counts += np.bincount(mask.ravel(), minlength=256)
    most = np.argsort(-counts[: len(classes)], kind="stable")[:_IN_LEGEND]
    shown = sorted(number for number in most.tolist() if counts[number])
    return [*shown, IGNORE] if counts[IGNORE] else shown


def _parts(numbers: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), length):
        yield numbers[start : start + length]


def _draw_legend(axis: Axes, numbers: list[int], classes: Sequence[str], lines: int) -> None:
    """Draw a colour for each class, and its name beside it.

    Colours are an image, as dark pages leave images as they are.
    """
    axis.imshow(palette()[numbers][:, None], interpolation="nearest", aspect="equal")
    axis.set(anchor="W", ylim=(lines - 0.5, -0.5), xticks=[])
    names = ["does not count" if number == IGNORE else classes[number] for number in numbers]
    axis.set_yticks(range(len(numbers)), names, fontsize=7)
    axis.tick_params("y", left=False, labelleft=False, labelright=True, pad=2)
    axis.spines[:].set_visible(False)


def _end_of(name: str, inches: float) -> str:
    """Return the end of a name that fits beside a picture."""
    characters = int(inches / CHARACTER_INCHES)
    return name if len(name) <= characters else "..." + name[3 - characters :]
