"""Shared by all figures: matplotlib without a display, a style, and PNG files."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fastimae.folders import replacing

PHOTOGRAPHS = "photographs"
"""The key of a PNG file's text that lists where photographs are: see `boxes_of_photographs`."""
COLORS = tuple(plt.get_cmap("tab10").colors)
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": "small",
}


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Give figures that are made in this context light grids and no boxes."""
    with plt.rc_context(STYLE):
        yield


def lines_of(
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[list[Mapping[str, Any]], tuple[float, ...]]]:
    """Yield each model's rows of a table, and the colour (RGB) of its lines in a figure."""
    names = dict.fromkeys(row["model"] for row in rows)
    for name, color in zip(names, itertools.cycle(COLORS), strict=False):
        yield [row for row in rows if row["model"] == name], color


def legend_below(figure: Figure, columns: int = 3) -> None:
    """Add a legend of all axes below them, with fewer columns if long names need the width."""
    for ncols in range(columns, 0, -1):
        legend = figure.legend(loc="outside lower center", ncols=ncols)
        if ncols == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a PNG file atomically, and close the figure.

    The file's text has the boxes of photographs, so that a dark page can darken the rest.
    """
    figure.set_dpi(dpi)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")  # it has placed everything: the boxes stay right
    for axis in figure.axes:
        axis.apply_aspect()
    text = {PHOTOGRAPHS: json.dumps(boxes_of_photographs(figure))}
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi, metadata=text)
    plt.close(figure)


def boxes_of_photographs(figure: Figure) -> list[list[float]]:
    """Return left, top, right and bottom of each image in a figure that is laid out, in pixels."""
    boxes = (image.get_window_extent() for axis in figure.axes for image in axis.images)
    return [[box.x0, figure.bbox.y1 - box.y1, box.x1, figure.bbox.y1 - box.y0] for box in boxes]


def joined(*lines: str) -> str:
    """Return the lines that are not empty as one text."""
    return "\n".join(line for line in lines if line)
