"""The figure of fastimae-eval robustness: accuracies over what differs, or as bars by set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.evaluate.candidates import Candidate
from fastimae.evaluate.differences import DIFFERENCES, trained_with
from fastimae.evaluate.robustness.scoring import Row
from fastimae.pictures.plots import COLORS, legend_below, plain_style, plt, save_figure

BAR = 0.8
"""Width of a group of bars; groups are 1 apart."""


def draw_accuracies(
    table: Sequence[Row],
    candidates: Sequence[Candidate],
    labels: Sequence[str],
    difference: str | None,
    path: Path,
    note: str,
) -> None:
    """Draw top-1 accuracies: a line for each set over the setting that differs, or groups of bars.

    table: rows with "set", "classifier" and "acc1". labels: of the candidates. difference: see
    `difference_of`; a name of models is no place on an axis, so it gives bars.
    """
    by_number = difference is not None and DIFFERENCES[difference].kind is not str
    sets = list(dict.fromkeys(row["set"] for row in table))
    acc1 = {(row["classifier"], row["set"]): row["acc1"] for row in table}
    with plain_style():
        width = 6.4 if by_number else min(2.5 + 0.5 * len(sets) * (1 + len(candidates)), 16)
        figure, axis = plt.subplots(figsize=(width, 4.4), layout="constrained")
        if by_number:
            _lines(axis, acc1, sets, candidates, str(difference))
        else:
            _bars(axis, acc1, sets, candidates, labels)
        axis.set(ylabel="top-1 accuracy (%)", ylim=(0, None))
        figure.suptitle(note, fontsize="small", wrap=True)
        if by_number or len(candidates) > 1:
            legend_below(figure)
        save_figure(figure, path)


def _lines(
    axis: Any,
    acc1: dict[tuple[str, str], float],
    sets: Sequence[str],
    candidates: Sequence[Candidate],
    difference: str,
) -> None:
    ticks = sorted(trained_with(each)[difference] for each in candidates)
    for name, color in zip(sets, itertools.cycle(COLORS), strict=False):
        points = sorted(
            (ticks.index(trained_with(each)[difference]), acc1[each.name, name])
            for each in candidates
        )
        axis.plot(*zip(*points, strict=True), "o-", color=color, label=name)
    axis.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    axis.set_xlabel(DIFFERENCES[difference].axis)


def _bars(
    axis: Any,
    acc1: dict[tuple[str, str], float],
    sets: Sequence[str],
    candidates: Sequence[Candidate],
    labels: Sequence[str],
) -> None:
    width = BAR / len(candidates)
    models = zip(candidates, labels, itertools.cycle(COLORS), strict=False)
    for number, (candidate, label, color) in enumerate(models):
        places = [at + width * (number + 0.5) - BAR / 2 for at in range(len(sets))]
        heights = [acc1[candidate.name, name] for name in sets]
        text = label.replace("\n", ", ")
        bars = axis.bar(places, heights, width * 0.9, color=color, label=text)
        if len(candidates) <= 4:
            axis.bar_label(bars, fmt="%.1f", padding=2, fontsize="x-small")
    axis.set_xticks(range(len(sets)), sets)
    axis.set_xlim(-0.6, len(sets) - 0.4)
    axis.grid(axis="x", visible=False)
