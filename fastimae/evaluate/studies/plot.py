"""The plot of a study: a panel for each column of its table; the paper's numbers are hollow."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fastimae.evaluate.pages.tables import is_number
from fastimae.evaluate.pages.titles import UNITS
from fastimae.evaluate.studies.file import PlotSettings, Study
from fastimae.evaluate.studies.table import Row
from fastimae.pictures.plots import COLORS, legend_below, plain_style, plt, save_figure

PANELS = 4
"""Panels side by side."""
WIDTH, HEIGHT, BAR = 3.6, 3.2, 0.35
"""Inches of a panel, and of each bar."""
LETTERS = 11
"""Letters of a title in an inch."""
NAME = 20
"""Letters of a name in one line."""


def draw(study: Study, rows: Sequence[Row], notes: Sequence[str], path: Path) -> None:
    """Draw lines over `plot.x`, or bars without it, and write a PNG file.

    notes: sentences below the panels: how the numbers are measured.
    """
    columns = min(len(study.columns), PANELS)
    lines = math.ceil(len(study.columns) / columns)
    height = HEIGHT if study.plot.x else max(HEIGHT / 2, BAR * (len(rows) + 2))
    with plain_style():
        figure, axes = plt.subplots(
            lines, columns, squeeze=False, figsize=(WIDTH * columns, height * lines + 1),
            layout="constrained", sharey=False if study.plot.x else "row",
        )  # fmt: skip
        for axis, column in zip(axes.flat, study.columns, strict=False):
            unit = UNITS.get(column.keys[-1], column.keys[-1])
            axis.set_title(column.name)
            if study.plot.x:
                draw_lines(axis, study.plot, rows, column.name, labels=axis is axes[0, 0])
                axis.set(xlabel=study.plot.x, ylabel=unit)
            else:
                draw_bars(axis, rows, column.name, labels=axis is axes[0, 0])
                axis.set_xlabel(unit)
        for axis in axes.flat[len(study.columns) :]:
            axis.remove()
        width = int(columns * WIDTH * LETTERS)
        figure.suptitle(textwrap.fill(study.about, width), fontsize="medium")
        if any(row.paper for row in rows):
            hollow = {"color": "gray", "markerfacecolor": "none", "label": "the paper's"}
            axes[0, 0].plot([], [], "o--" if study.plot.x else "o", **hollow)
        legend_below(figure)
        below = "\n".join(textwrap.fill(note, int(width * 1.4)) for note in notes)
        figure.legends[0].set_title(below, prop={"size": "x-small"})
        save_figure(figure, path)


def draw_lines(
    axis: Axes, plot: PlotSettings, rows: Sequence[Row], column: str, *, labels: bool
) -> None:
    """Draw a column over x, with a line for each combination of all else; models without x as
    horizontal lines. labels: name the lines."""
    values = list(dict.fromkeys(row.point[plot.x] for row in rows if plot.x in row.point))
    numeric = all(map(is_number, values))
    for color, (label, line) in zip(
        itertools.cycle(COLORS), lines_of(plot.x, rows).items(), strict=False
    ):
        named = label if labels else None
        ours, paper = _ours(line, column), _papers(line, column)
        if plot.x not in line[0].point:
            axis.axhline(ours[0], color=color, label=named)
            axis.axhline(paper[0], color=color, linestyle="--")
            continue
        xs = [row.point[plot.x] if numeric else values.index(row.point[plot.x]) for row in line]
        axis.errorbar(xs, ours, yerr=_spread(line, column), fmt="o-", color=color, label=named)
        known = [each for each in zip(xs, paper, strict=True) if not math.isnan(each[1])]
        if known:
            axis.plot(*zip(*known, strict=True), "o--", color=color, markerfacecolor="none")
    if not numeric:
        texts = [textwrap.fill(str(value), NAME) for value in values]
        axis.set_xticks(range(len(values)), texts, rotation=90 if len(values) > 3 else 0)
    elif plot.log:
        axis.set_xscale("log")


def draw_bars(axis: Axes, rows: Sequence[Row], column: str, *, labels: bool) -> None:
    """Draw a column as a bar for each model, the first at the top. labels: name the bars."""
    places = range(len(rows))
    ours, named = _ours(rows, column), "ours" if labels else None
    spread = _spread(rows, column)
    bars = axis.barh(places, ours, 0.7, xerr=spread, color=COLORS[0], alpha=0.6, label=named)
    texts = ["" if math.isnan(number) else f"{number:.4g}" for number in ours]
    axis.bar_label(bars, texts, padding=3, fontsize="small")
    axis.plot(_papers(rows, column), places, "o", color="gray", markerfacecolor="none")
    axis.set_yticks(places, [textwrap.fill(row.name, NAME) for row in rows])
    axis.margins(x=0.2)
    if not axis.yaxis_inverted():
        axis.invert_yaxis()


def lines_of(x: str | None, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each line of a plot over x, by the line's label; sorted by numeric x."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        others = [f"{flag} {value}" for flag, value in row.point.items() if flag != x]
        found.setdefault(", ".join([row.model, *others]), []).append(row)
    for line in found.values():
        if all(is_number(row.point.get(x)) for row in line):
            line.sort(key=lambda row: row.point[x])
    return found


def _ours(rows: Sequence[Row], column: str) -> list[float]:
    return [_number(row.mean(column)) for row in rows]


def _papers(rows: Sequence[Row], column: str) -> list[float]:
    return [_number(row.paper.get(column)) for row in rows]


def _spread(rows: Sequence[Row], column: str) -> list[float] | None:
    spread = [row.deviation(column) for row in rows]
    return [each or 0.0 for each in spread] if any(spread) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
