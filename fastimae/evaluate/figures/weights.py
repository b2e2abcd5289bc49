"""Distributions of a model's weights, layer by layer."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fastimae.evaluate.encoder import load_encoder
from fastimae.evaluate.figures.plots import plain_style, plt, save_figure
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import forget_results, save_results
from fastimae.log import log

KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
PICTURE = "weights.png"
BINS = 81
_BLOCK = re.compile(r"^(?P<part>blocks|decoder_blocks)\.(?P<layer>\d+)\.(?P<kind>.+)\.weight$")


@dataclasses.dataclass(kw_only=True)
class WeightsOptions(EvalOptions):
    """How weights are distributed, in every layer: a picture, and mean, deviation, kurtosis."""


def run(options: WeightsOptions) -> None:
    """Draws weights.png; writes results.json with a line for each matrix."""
    with results_folder(options, "weights") as folder:
        _measure(options, folder)


def _measure(options: WeightsOptions, folder: Path) -> None:
    model = load_encoder(options.checkpoint, torch.device("cpu"), **options.of_model())
    origin = origin_of(options.checkpoint, model)
    left_out = ("decoder",) if model.fresh_decoder else ()
    matrices = {
        name: w for name, w in model.named_parameters()
        if w.dim() > 1 and _counts(name) and not name.startswith(left_out or "\0")
    }  # fmt: skip
    table = [{"weight": name, **moments(weight)} for name, weight in matrices.items()]
    forget_results(folder)
    draw(matrices, folder / PICTURE)
    path = save_results(
        folder, "weights", {"table": table}, options, origin=origin, pictures=[PICTURE]
    )
    log.info("%s and %s beside it", path, PICTURE)


def _counts(name: str) -> bool:
    """Not a fixed table, and not a single token."""
    return not name.endswith(("pos_embed", "cls_token", "mask_token"))


def moments(weight: Tensor) -> dict[str, float | int]:
    """Of all values: mean, standard deviation, excess kurtosis (0 for a normal distribution)."""
    values = weight.detach().double().flatten().numpy()
    spread = float(values.std())
    return {
        "values": values.size,
        "mean": float(values.mean()),
        "std": spread,
        "kurtosis": float(stats.kurtosis(values)) if spread > 0 else 0.0,
        "least": float(values.min()),
        "largest": float(values.max()),
    }


def draw(matrices: Mapping[str, Tensor], path: Path) -> None:
    """A panel for each kind of matrix and part of the model: a density for each layer."""
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
        axes[0, 0].legend(title="layer", title_fontsize="small", ncols=2)
        save_figure(figure, path)


def panels_of(matrices: Mapping[str, Tensor]) -> dict[tuple[str, str], list[tuple[int, Tensor]]]:
    """(blocks or decoder_blocks, kind) -> (layer, matrix) of each layer."""
    panels: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
    for name, weight in matrices.items():
        match = _BLOCK.match(name)
        if match and match["kind"] in KINDS:
            panels.setdefault((match["part"], match["kind"]), []).append(
                (int(match["layer"]), weight)
            )
    return panels


def _plot_densities(axis: Any, layers: Sequence[tuple[int, Tensor]]) -> None:
    if not layers:
        return
    limit = max(float(weight.detach().abs().quantile(0.999)) if weight.numel() < 2**24
                else float(weight.detach().abs().max()) for _, weight in layers)  # fmt: skip
    edges = np.linspace(-limit, limit, BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    colors = plt.get_cmap("viridis")
    every = -(-len(layers) // 6)
    labelled = {layer for layer, _ in layers[::-1][::every]}
    for layer, weight in layers:
        density, _ = np.histogram(weight.detach().float().numpy(), bins=edges, density=True)
        axis.plot(
            middles, density, linewidth=1, color=colors(0.9 * layer / max(len(layers) - 1, 1)),
            label=str(layer) if layer in labelled else None,
        )  # fmt: skip
    axis.set_ylim(0, None)
