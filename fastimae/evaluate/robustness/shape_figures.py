"""The figure of fastimae-eval shapebias: decisions by shape and by texture, by category."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.pictures.plots import COLORS, legend_below, plain_style, plt, save_figure

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def draw_shape_bias(
    rows: Sequence[Mapping[str, Any]],
    means: Mapping[str, float | None],
    path: Path,
    note: str,
) -> None:
    """Draw a point for each classifier and category, and a line at each classifier's mean.

    As Geirhos et al. draw it: shape is on the left, texture on the right. rows: "classifier",
    "shape" and "shape_bias". means: the bias over all images by the classifier's label, in the
    order of the rows; None where there is none.
    """
    categories = list(dict.fromkeys(row["shape"] for row in rows))
    names = list(dict.fromkeys(row["classifier"] for row in rows))
    styles = zip(itertools.cycle(COLORS), itertools.cycle(MARKERS), strict=False)
    with plain_style():
        size = (6.4, 1.8 + 0.32 * len(categories))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        for name, (label, mean), (color, marker) in zip(names, means.items(), styles, strict=False):
            points = [
                (1 - row["shape_bias"], categories.index(row["shape"])) for row in rows
                if row["classifier"] == name and row["shape_bias"] is not None
            ]  # fmt: skip
            told = label if mean is None else f"{label}: {mean:.3f}"
            if points:
                axis.plot(*zip(*points, strict=True), marker, color=color, alpha=0.8, label=told)
            if mean is not None:
                axis.axvline(1 - mean, color=color, alpha=0.6)
        axis.set_yticks(range(len(categories)), categories)
        axis.set(xlim=(-0.02, 1.02), ylim=(len(categories) - 0.5, -0.5))
        axis.set_xlabel("share of texture among decisions by shape or texture")
        axis.secondary_xaxis("top", functions=(_other, _other)).set_xlabel("share of shape")
        figure.suptitle(note, fontsize="small", wrap=True)
        legend_below(figure)
        save_figure(figure, path)


def _other(share: float) -> float:
    return 1 - share
