"""Plots of measures over the layers of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastimae.pictures.plots import legend_below, lines_of, plain_style, plt, save_figure

PANEL = 3.6
"""Inches."""


def draw_over_layers(
    rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str], path: Path
) -> None:
    """Draw a panel for each measure, with a line over the layers for each model.

    rows: "model", "layer" and the measures. measures: name -> title of the panel.
    """
    lines = list(lines_of(rows))
    with plain_style():
        figure, axes = plt.subplots(
            1, len(measures), squeeze=False, layout="constrained",
            figsize=(PANEL * len(measures), 3.0),
        )  # fmt: skip
        for axis, (measure, title) in zip(axes[0], measures.items(), strict=True):
            for line, color in lines:
                points = sorted((row["layer"], row[measure]) for row in line)
                label = line[0]["model"] if axis is axes[0, 0] and len(lines) > 1 else None
                axis.plot(*zip(*points, strict=True), "o-", markersize=3, color=color, label=label)
            axis.set(title=title, xlabel="layer")
            axis.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            legend_below(figure)
        save_figure(figure, path)
