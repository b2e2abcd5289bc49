"""Plots of results: lines, and panels of bars."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 120


@contextlib.contextmanager
def line_plot(path: Path, title: str, x: str, y: str) -> Iterator[Axes]:
    """Give axes to draw lines in; label and save them when the context ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.legend()
    figure.savefig(path, dpi=DPI)


def bar_panels(path: Path, title: str, x: str, panels: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a panel of bars under each name; do nothing without panels."""
    from matplotlib.figure import Figure

    if not panels:
        return
    heights = [len(bars) + 1.5 for bars in panels.values()]
    figure = Figure(figsize=(9, 0.36 * sum(heights) + 0.8), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axis, (name, values) in zip(axes, panels.items(), strict=True):
        bars = axis.barh([*values], [*values.values()], color="tab:blue")
        axis.bar_label(bars, [f"{value:.3g}" for value in values.values()], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_title(name, loc="left", fontsize="medium")
    axes[-1].set_xlabel(x)
    figure.savefig(path, dpi=DPI)
