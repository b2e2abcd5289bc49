"""The figures of fastimae-eval cka: heat maps over layers and mask ratios, and their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray

from fastimae.pictures.picture_table import within
from fastimae.pictures.plots import (
    COLORS,
    legend_below,
    lines_of,
    plain_style,
    plt,
    save_figure,
)

PANELS = 4
"""Most heat maps in a row."""
CELL_WIDTH, CELL_HEIGHT = 0.36, 0.22
"""Inches of a cell, with its number."""
MEAN = "mean"
"""The row of means over all layers."""


def draw_maps(
    panels: Sequence[tuple[str, NDArray[np.float64]]],
    mask_ratios: Sequence[float],
    path: Path,
    note: str,
) -> None:
    """Draw a heat map for each model, all in one scale of colours, with the numbers in it.

    panels: a title, and CKA [layers, ratios], nan where there is none. Layers go up, their means
    are the topmost row. note: what was measured, above all.
    """
    values = np.concatenate([grid.ravel() for _, grid in panels])
    least = np.nanmin(values) if np.isfinite(values).any() else 0.0
    scale = Normalize(min(math.floor(least * 10) / 10, 0.9), 1.0)
    columns = min(len(panels), PANELS)
    lines = math.ceil(len(panels) / columns)
    deepest = max(len(grid) for _, grid in panels)
    width = max(CELL_WIDTH * len(mask_ratios), 1.6) + 0.6
    height = CELL_HEIGHT * (deepest + 2) + 0.9
    with plain_style():
        figure, axes = plt.subplots(
            lines, columns, squeeze=False, layout="constrained",
            figsize=(width * columns + 1.0, height * lines + 0.5),
        )  # fmt: skip
        for axis, (title, grid) in zip(axes.flat, panels, strict=False):
            mesh = _draw_map(axis, grid, mask_ratios, scale)
            axis.set_title(within(title, width - 0.6), fontsize=8)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("layer")
        figure.colorbar(mesh, ax=axes, label="CKA", fraction=0.05, shrink=0.9)
        figure.suptitle(note, fontsize=8, wrap=True)
        save_figure(figure, path)


def draw_means(rows: Sequence[Mapping[str, Any]], path: Path, note: str) -> None:
    """Draw means over all layers over the share of masked patches: a line for each model.

    rows: "model", "masked", "cka".
    """
    lines = list(lines_of(rows))
    with plain_style():
        figure, axis = plt.subplots(figsize=(4.6, 3.8), layout="constrained")
        for line, color in lines:
            points = sorted((row["masked"], row["cka"]) for row in line if row["cka"] is not None)
            label = line[0]["model"] if len(lines) > 1 else None
            color = color if len(lines) > 1 else COLORS[0]
            axis.plot([x for x, _ in points], [y for _, y in points], "o-", markersize=3,
                      color=color, label=label)  # fmt: skip
        axis.set(xlabel="share of patches that are masked", ylabel="CKA, mean over layers")
        figure.suptitle(note, fontsize=8, wrap=True)
        if len(lines) > 1:
            legend_below(figure, columns=2)
        save_figure(figure, path)


def _draw_map(
    axis: Any, grid: NDArray[np.float64], mask_ratios: Sequence[float], scale: Normalize
) -> Any:
    """Draw one heat map, an empty row apart from that of the means. Returns it, for its colours."""
    apart = np.full((1, grid.shape[1]), np.nan)
    cells = np.concatenate([grid, apart, grid.mean(0, keepdims=True)])
    # A mesh, not an image: on a dark page the colours change with those of the scale beside it.
    mesh = axis.pcolormesh(cells, norm=scale, cmap="viridis")
    for (row, column), value in np.ndenumerate(cells):
        if np.isfinite(value):
            ink, number = "white" if scale(value) < 0.6 else "black", f"{value:.3f}"
            axis.text(column + 0.5, row + 0.5, number.replace("0.", ".", 1), color=ink,
                      fontsize=6.5, ha="center", va="center")  # fmt: skip
    axis.grid(visible=False)
    axis.tick_params(length=0, labelsize=7)
    for spine in axis.spines.values():
        spine.set_visible(False)
    places = [*range(len(grid)), len(grid) + 1]
    axis.set_yticks(np.array(places) + 0.5, [*map(str, range(len(grid))), MEAN])
    axis.set_xticks(np.arange(len(mask_ratios)) + 0.5, [f"{ratio:g}" for ratio in mask_ratios])
    axis.set_xlabel("masking ratio", fontsize=8)
    return mesh
