"""fastimae-eval weights: distributions of a model's weights, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fastimae.evaluate.features import load_encoder
from fastimae.evaluate.options.figures import WeightsOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.plots import plain_style, plt, save_figure

KINDS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
PICTURE = "weights.png"
BINS = 81
_BLOCK = re.compile(r"^(?P<part>blocks|decoder_blocks)\.(?P<layer>\d+)\.(?P<kind>.+)\.weight$")


def run(options: WeightsOptions) -> None:
    """Draw weights.png, and write results.json with a row for each matrix."""
    with open_results(options, "weights") as results:
        model = load_encoder(options.checkpoint, torch.device("cpu"), **options.of_model())
        origin = origin_of(options.checkpoint, model)
        matrices = matrices_of(model)
        table = [{"weight": name, **moments(weight)} for name, weight in matrices.items()]
        draw(matrices, results.picture(PICTURE))
        path = results.save({"table": table}, origin=origin)
        log.info("%s and %s beside it", path, PICTURE)


def matrices_of(model: MaskedAutoencoder) -> dict[str, Tensor]:
    """Return the weight matrices by name.

    Position tables and tokens are left out, and a decoder that the file lacks: it is random.
    """
    return {
        name: weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1
        and not name.endswith(("pos_embed", "cls_token", "mask_token"))
        and not (model.fresh_decoder and name.startswith("decoder"))
    }


def moments(weight: Tensor) -> dict[str, float | int]:
    """Return mean, standard deviation, range and excess kurtosis (0 for a normal distribution)."""
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


def panels_of(matrices: Mapping[str, Tensor]) -> dict[tuple[str, str], list[tuple[int, Tensor]]]:
    """Group the matrices: (blocks or decoder_blocks, kind) -> (layer, matrix) of each layer."""
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
    limit = max(_limit(weight.detach().abs()) for _, weight in layers)
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


def _limit(sizes: Tensor) -> float:
    """Return where the axis ends: a high quantile, or the maximum of too many values for torch."""
    return float(sizes.quantile(0.999) if sizes.numel() < 2**24 else sizes.max())
