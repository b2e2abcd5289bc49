"""Plots of weights: densities layer by layer, models on top of each other, sparsity over layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastimae.evaluate.figures.over_layers import draw_over_layers
from fastimae.evaluate.figures.weight_measures import KINDS, NEAR_ZERO, panels_of
from fastimae.pictures.plots import COLORS, legend_below, plain_style, plt, save_figure

BINS, FINE_BINS = 81, 161
DEVIATIONS = 3.5
"""Where the axis of overlaid densities ends, in root mean squares."""
TITLES = {
    "near_zero": f"near zero (at most {NEAR_ZERO:g} of the RMS)",
    "hoyer": "Hoyer's sparsity",
    "kurtosis": "excess kurtosis",
}


def draw_layers(matrices: Mapping[str, Tensor], path: Path) -> None:
    """Draw a panel for each kind of matrix, in encoder and decoder: a density for each layer."""
    panels = panels_of(matrices)
    parts = list(dict.fromkeys(part for part, _ in panels))
    with plain_style():
        figure, axes = plt.subplots(
            len(parts), len(KINDS), squeeze=False, layout="constrained",
            figsize=(3.2 * len(KINDS), 2.6 * len(parts) + 0.3),
        )  # fmt: skip
        for line, part in zip(axes, parts, strict=True):
            for axis, kind in zip(line, KINDS, strict=True):
                _plot_densities(axis, panels.get((part, kind), []))
                axis.set_title(f"{'encoder' if part == 'blocks' else 'decoder'} {kind}")
            line[0].set_ylabel("density")
        for axis in axes[-1]:
            axis.set_xlabel("weight")
        axes[0, 0].legend(title="layer", title_fontsize="small", ncols=2)
        save_figure(figure, path)


def draw_models(models: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Draw the densities of several models' encoders on top of each other.

    models: label -> matrices. A column for all blocks, and one for each kind of matrix. Above, the
    weights; below, each matrix divided by its root mean square, so that only the shape differs.
    """
    grouped = {label: _by_kind(matrices) for label, matrices in models.items()}
    columns = ["all blocks", *KINDS]
    with plain_style():
        figure, axes = plt.subplots(
            2, len(columns), layout="constrained", figsize=(2.9 * len(columns), 5.4)
        )
        for line, scaled in zip(axes, (False, True), strict=True):
            for axis, column in zip(line, columns, strict=True):
                some = {label: of_kind[column] for label, of_kind in grouped.items()}
                _overlay(axis, some, scaled=scaled, named=axis is axes[0, 0])
                axis.set_xlabel("weight / RMS of its matrix" if scaled else "weight")
            line[0].set_ylabel("density")
        for axis, column in zip(axes[0], columns, strict=True):
            axis.set_title(column)
        legend_below(figure)
        save_figure(figure, path)


def draw_sparsity(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the measures of sparsity over the encoder's layers: a line for each model.

    rows: "model", "layer" and the measures.
    """
    draw_over_layers(rows, TITLES, path)


def _by_kind(matrices: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
    """Return the matrices of the encoder's blocks by kind, and all of them."""
    panels = panels_of(matrices)
    kinds = {kind: [weight for _, weight in panels.get(("blocks", kind), [])] for kind in KINDS}
    return {"all blocks": [weight for of_kind in kinds.values() for weight in of_kind], **kinds}


def _overlay(axis: Any, models: Mapping[str, list[Tensor]], *, scaled: bool, named: bool) -> None:
    """Plot a density for each model. scaled: of matrices divided by their root mean squares."""
    sizes = {label: [_rms(weight) for weight in weights] for label, weights in models.items()}
    widest = 1.0 if scaled else max(max(of_model, default=0) for of_model in sizes.values())
    edges = np.linspace(-1, 1, FINE_BINS) * DEVIATIONS * (widest or 1.0)
    for (label, weights), color in zip(models.items(), itertools.cycle(COLORS), strict=False):
        units = sizes[label] if scaled else [1.0] * len(weights)
        density = density_of(weights, units, edges)
        axis.plot((edges[1:] + edges[:-1]) / 2, density, linewidth=1.2, color=color,
                  label=label if named else None)  # fmt: skip
    axis.set_ylim(0, None)


def density_of(
    weights: Sequence[Tensor], units: Sequence[float], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the density of all weights, each divided by its unit, in bins; some may be outside."""
    counts, total = np.zeros(len(edges) - 1), 0
    for weight, unit in zip(weights, units, strict=True):
        counts += np.histogram(weight.float().numpy() / (unit or 1.0), bins=edges)[0]
        total += weight.numel()
    return counts / max(total, 1) / np.diff(edges)


def _rms(weight: Tensor) -> float:
    return float(weight.float().norm()) / math.sqrt(weight.numel())


def _plot_densities(axis: Any, layers: Sequence[tuple[int, Tensor]]) -> None:
    if not layers:
        return
    limit = max(_limit(weight.abs()) for _, weight in layers)
    edges = np.linspace(-limit, limit, BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    colors = plt.get_cmap("viridis")
    every = -(-len(layers) // 6)
    labelled = {layer for layer, _ in layers[::-1][::every]}
    for layer, weight in layers:
        density, _ = np.histogram(weight.float().numpy(), bins=edges, density=True)
        axis.plot(
            middles, density, linewidth=1, color=colors(0.9 * layer / max(len(layers) - 1, 1)),
            label=str(layer) if layer in labelled else None,
        )  # fmt: skip
    axis.set_ylim(0, None)


def _limit(sizes: Tensor) -> float:
    """Return where the axis ends: a high quantile, or the maximum of too many values for torch."""
    return float(sizes.quantile(0.999) if sizes.numel() < 2**24 else sizes.max())
