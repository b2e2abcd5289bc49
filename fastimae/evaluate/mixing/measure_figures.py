"""Plots of the measures of several models: over what differs between trainings, and over ratios."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastimae.evaluate.differences import DIFFERENCES, trained_with
from fastimae.evaluate.mixing.mask_units import mask_columns
from fastimae.evaluate.mixing.measurements import Measurements
from fastimae.evaluate.mixing.ratio_figures import MEASURES, plot_over_masks, titled
from fastimae.evaluate.mixing.reconstruction import ONE_HEAD, UNMASKED
from fastimae.evaluate.mixing.subjects import Subject, row_titles
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.picture_table import TITLE_CHARACTERS
from fastimae.pictures.plots import COLORS, legend_below, plain_style, plt, save_figure

MARKERS = {"image": "o", BRANCHES[0]: "^", BRANCHES[1]: "v", ONE_HEAD: "s"}
"""By branch."""
BETTER_IS_LESS = ("mse",)
"""Measures that are drawn negative, as in the hierarchical paper's figures 5 and 9."""


class Point(NamedTuple):
    """The measures of one view of a branch that is predicted everywhere."""

    subject: int
    mask_ratio: float
    masked: float
    """The realised ratio."""
    mix_ratio: float | None
    branch: str
    means: dict[str, float]


def points_of(subjects: Sequence[Subject], measured: Measurements) -> list[Point]:
    """Return the measures of everything that is predicted everywhere."""
    points = []
    for setting, branch, view in measured.sums:
        if view in ("whole", UNMASKED):
            number, ratio, mix_ratio = setting
            masks = mask_columns(subjects[number].candidate.model, ratio, subjects[number].unit)
            means = measured.means(setting, branch, view)
            points.append(Point(number, ratio, masks["masked"], mix_ratio, branch, means))
    return points


def draw_measures(
    points: Sequence[Point],
    subjects: Sequence[Subject],
    difference: str | None,
    path: Path,
    note: str,
) -> None:
    """Draw each measure over the setting in which the trainings differ, else by model.

    difference: see `difference_of`. More is better in all panels.
    """
    if difference:
        places = [trained_with(subject.candidate)[difference] for subject in subjects]
        ticks = list(dict.fromkeys(places)) if difference == "model" else sorted(set(places))
    else:
        places = [textwrap.fill(label, TITLE_CHARACTERS) for label in row_titles(subjects)]
        ticks = places[::-1]
    names = [name for name in MEASURES if name in points[0].means]
    width, height = (0, 3.6) if difference else (2, 1.6 + 0.45 * len(ticks))
    with plain_style():
        figure, axes = plt.subplots(
            1, len(names), squeeze=False, layout="constrained", sharey=not difference,
            figsize=(width + 2.8 * len(names), height),
        )  # fmt: skip
        for axis, name in zip(axes[0], names, strict=True):
            for line, style in _series(points, labelled=axis is axes[0, 0]):
                sign = -1 if name in BETTER_IS_LESS else 1
                dots = sorted((ticks.index(places[p.subject]), sign * p.means[name]) for p in line)
                at, values = zip(*dots, strict=True)
                if difference:
                    axis.plot(at, values, **style)
                else:
                    axis.plot(values, at, linestyle="none", **style)
            negative = "negative " if name in BETTER_IS_LESS else ""
            axis.set_title(f"{negative}{MEASURES[name]}")
            if difference:
                axis.set_xticks(range(len(ticks)), ticks)
                axis.set_xlabel(DIFFERENCES[difference].axis, fontsize="small")
            else:
                axis.set_yticks(range(len(ticks)), ticks)
                axis.set_ylim(-0.5, len(ticks) - 0.5)
        figure.suptitle(note, fontsize=8, wrap=True)
        legend_below(figure)
        save_figure(figure, path)


def draw_over_ratios(
    points: Sequence[Point],
    labels: Sequence[str],
    path: Path,
    note: str,
    *,
    of_mixing: bool,
) -> None:
    """Draw each measure over masking ratios, or over those of mixing: a line for each model.

    What a model makes of clean images is drawn with what others make of the subordinate ones, which
    are the same images.
    """
    mixes = sorted({point.mix_ratio for point in points} - {None})
    rows: dict[str, list[Point]] = {}
    for point in points:
        clean = point.branch == "image" and mixes
        rows.setdefault(BRANCHES[0] if clean else point.branch, []).append(point)
    names = [name for name in MEASURES if name in points[0].means]
    with plain_style():
        figure, axes = plt.subplots(
            len(rows), len(names), squeeze=False, layout="constrained",
            figsize=(2.8 * len(names), 2.6 * len(rows) + 0.9),
        )  # fmt: skip
        for line, (branch, of_branch) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(branch)
            for axis, name in zip(line, names, strict=True):
                axis.set_title(MEASURES[name])
                for number, color in zip(range(len(labels)), itertools.cycle(COLORS), strict=False):
                    of_model = [point for point in of_branch if point.subject == number]
                    _plot(axis, of_model, name, mixes if of_mixing else [], color=color)
        for axis in axes[-1]:
            axis.set_xlabel("mixing ratio s" if of_mixing else "masking ratio")
        for label, color in zip(labels, itertools.cycle(COLORS), strict=False):
            axes[0, 0].plot([], [], color=color, label=label)
        figure.suptitle(note, fontsize=8, wrap=True)
        legend_below(figure, columns=2)
        save_figure(figure, path)


def _plot(axis: Any, points: Sequence[Point], name: str, mixes: list[float], **style: Any) -> None:
    """Draw a model's line over masking ratios, or over the given mixing ratios."""
    if not mixes:
        plot_over_masks(axis, sorted((p.masked, p.means[name]) for p in points), **style)
        return
    values = {point.mix_ratio: point.means[name] for point in points}
    if None in values:  # clean images, whatever the others are mixed with
        axis.axhline(values.pop(None), **style)
    if values:
        axis.plot(mixes, [values[mix] for mix in mixes], marker=".", **style)


def _series(
    points: Sequence[Point], *, labelled: bool
) -> Iterator[tuple[list[Point], dict[str, Any]]]:
    """Yield the points of each masking ratio and branch, and how to draw them."""
    series: dict[tuple[float, str], list[Point]] = {}
    for point in points:
        series.setdefault((point.mask_ratio, point.branch), []).append(point)
    several = len({branch for _, branch in series}) > 1
    for ((ratio, branch), line), color in zip(
        series.items(), itertools.cycle(COLORS), strict=False
    ):
        style = {"color": color, "marker": MARKERS[branch], "markersize": 5}
        name = f"{titled(ratio)}, {branch}" if several else titled(ratio)
        yield line, style | ({"label": name} if labelled else {})
