"""Pictures of attention: maps by layer and head, models side by side, and width over layers.

H, W = height, width, L = patches, h = heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastimae.evaluate.figures.over_layers import draw_over_layers
from fastimae.pictures.picture_table import displayable, within
from fastimae.pictures.plots import joined, plt, save_figure

HEAT = "inferno"
OPACITY = 0.65
PALE = -160
"""The gray value that is shown in black: the image below the heat is pale."""
INCHES = 1.6
"""Side of an image beside others."""
WIDTHS = {
    "distance_pixels": "mean distance (pixels)",
    "entropy_bits": "entropy (bits)",
    "patch_share": "share of patches that hold {:.0%}",
}
"""What is plotted over layers: the column of the table, and its title for a mass."""
Patch = tuple[int, int]


class View(NamedTuple):
    """What one model attends to in one image."""

    weights: Tensor
    """float [L]"""
    kept: Tensor
    """bool [L]: patches to draw."""
    grid: tuple[int, int]
    token: Patch | None
    """A patch to frame."""
    layer: int


def draw(
    image: Tensor,
    attention: Tensor,
    layers: list[int],
    grid: tuple[int, int],
    token: Patch | None,
    path: Path,
    note: str = "",
) -> None:
    """Draw heat over the gray image: a row for each layer, a column for each head, and their mean.

    image: uint8 [H, W, 1 or 3]. attention: [layers, h, L]. token: a patch to frame. note: what the
    caption says of the image.
    """
    height, width = image.shape[:2]
    heads = attention.shape[1]
    titles = ["image", "mean", *(f"head {head}" for head in range(heads))]
    inches = 1.1 if heads <= 8 else 0.85
    figure, axes = plt.subplots(
        len(layers), len(titles), squeeze=False, layout="constrained",
        figsize=(inches * len(titles) + 0.3, inches * len(layers) * height / width + 0.5),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    gray = displayable(image).mean(-1)
    for line, layer, row_hL in zip(axes, layers, attention, strict=True):
        line[0].imshow(displayable(image))
        for axis, heat in zip(line[1:], _heat(row_hL, grid, (height, width)), strict=True):
            axis.imshow(gray, cmap="gray", vmin=0, vmax=255)
            axis.imshow(heat, cmap=HEAT, alpha=OPACITY, vmin=0)
        line[0].set_ylabel(f"layer {layer}", fontsize=8)
        for axis in line:
            _finish(axis, token, grid, image)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    figure.supxlabel(
        joined(f"What {_in_words(token)} looks at; each map is scaled to its own maximum", note),
        fontsize=7, wrap=True,
    )  # fmt: skip
    save_figure(figure, path)


def draw_side_by_side(
    rows: Sequence[tuple[Tensor, Sequence[View]]],
    columns: Sequence[str],
    mass: float,
    path: Path,
    note: str = "",
) -> None:
    """Draw the image, and what each model attends to, as the hierarchical paper's figures 6, 7.

    rows: an image, uint8 [H, W, 1 or 3], and the view of each model. columns: a title for each
    model. note: what the caption says of the images. Patches that are not kept stay gray.
    """
    (height, width), count = rows[0][0].shape[:2], 1 + len(columns)
    titles = [within(title, INCHES) for title in ("image", *columns)]
    lines = 1 + max(title.count("\n") for title in titles)
    figure, axes = plt.subplots(
        len(rows), count, squeeze=False, layout="compressed",
        figsize=(INCHES * count, INCHES * len(rows) * height / width + 0.5 + 0.15 * lines),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for line, (image, views) in zip(axes, rows, strict=True):
        line[0].imshow(displayable(image))
        _finish(line[0], views[0].token, views[0].grid, image)
        gray = displayable(image).mean(-1)
        for axis, view in zip(line[1:], views, strict=True):
            axis.imshow(gray, cmap="gray", vmin=PALE, vmax=255)
            kept = view.kept.unflatten(0, view.grid).numpy()
            axis.imshow(
                view.weights.unflatten(0, view.grid).numpy(), cmap=HEAT, vmin=0,
                alpha=OPACITY * kept, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="nearest",
            )  # fmt: skip
            _finish(axis, view.token, view.grid, image)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    figure.supxlabel(joined(_note(rows[0][1], mass), note), fontsize=7, wrap=True)
    save_figure(figure, path)


def _note(views: Sequence[View], mass: float) -> str:
    layers = " and ".join(str(layer) for layer in dict.fromkeys(view.layer for view in views))
    heads = "mean over heads" if views[0].token is None else "first head"
    kept = "" if mass == 1 else f": the patches that get {mass:.0%} of its attention to patches"
    what = f"What {_in_words(views[0].token)} looks at in layer {layers} ({heads})"
    return f"{what}{kept}. Brighter: more"


def draw_widths(table: Sequence[Mapping[str, Any]], mass: float, path: Path) -> None:
    """Draw three measures of width over layers: a line for each model of the table."""
    titles = {measure: title.format(mass) for measure, title in WIDTHS.items()}
    draw_over_layers(table, titles, path)


def _heat(row_hL: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize the mean over heads, and each head's attention, to images [1 + h, H, W]."""
    maps = torch.cat([row_hL.mean(0, keepdim=True), row_hL]).unflatten(-1, grid)
    return F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0].numpy()


def _finish(axis: Any, token: Patch | None, grid: tuple[int, int], image: Tensor) -> None:
    """Remove the ticks, and frame the token's patch."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if token is not None:
        height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
        corner = token[1] * width - 0.5, token[0] * height - 0.5
        frame = plt.Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=1.2)
        axis.add_patch(frame)


def _in_words(token: Patch | None) -> str:
    return "the class token" if token is None else f"the patch in row {token[0]}, column {token[1]}"
