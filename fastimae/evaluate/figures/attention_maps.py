"""Attention of a token over the image, by layer and head.

B = images, N = 1 + L tokens (class token first), h = heads, d = width of a head.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.engine.distributed import alone
from fastimae.evaluate.encoder import all_visible, load_encoder
from fastimae.evaluate.figures.picture_table import displayable
from fastimae.evaluate.figures.plots import plt, save_figure
from fastimae.evaluate.images import center_batches
from fastimae.evaluate.options import EvalOptions, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import forget_results, save_results
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, PositiveInt

AT_ONCE = 8  # images: maps of all layers and heads take much memory


@dataclasses.dataclass(kw_only=True)
class AttentionOptions(EvalOptions):
    """Where the class token, or a patch, looks: a picture for each image, by layer and head."""

    token: tuple[int, int] | None = None
    """Row and column (from 0) of the patch that looks. None: the class token."""
    layers: tuple[int, ...] = ()
    """Blocks to show, from 0; -1 is the last. Empty: all."""
    samples: PositiveInt = 4
    """Images to draw."""


def run(options: AttentionOptions) -> None:
    """Draws attention-N.png for each image; writes entropies and distances to results.json."""
    with results_folder(options, "attention") as folder:
        _measure_and_draw(options, folder)


def _measure_and_draw(options: AttentionOptions, folder: Path) -> None:
    device = alone(options.device).device
    model = load_encoder(options.checkpoint, device, **options.of_model())
    origin = origin_of(options.checkpoint, model)
    token = token_number(model, options.token)
    layers = chosen_layers(model, options.layers)
    images = options.val_images() if options.val else options.train_images()
    order = np.random.default_rng(options.seed).permutation(len(images))[: options.samples]
    batches = center_batches(
        images, model.img_size, batch_size=AT_ONCE, workers=options.num_workers,
        channels=model.in_chans, indices=order,
    )  # fmt: skip
    numbers, pictures = [], []
    forget_results(folder)
    for pixels, _ in batches:
        maps = attention_maps(model, pixels.to(device))
        numbers.append([[_measures(maps[i], token, model.grid, b) for i in layers]
                        for b in range(len(pixels))])  # fmt: skip
        for b, image in enumerate(pixels):
            looks = torch.stack([maps[i][b, :, token, 1:] for i in layers]).cpu()
            pictures.append(f"attention-{len(pictures)}.png")
            draw(image, looks, layers, model.grid, options.token, folder / pictures[-1])
    if not pictures:
        raise DataError(f"{images.source}: none of {len(order)} images can be read")
    measures = np.array([image for batch in numbers for image in batch])  # [images, layers, 2, h]
    table = [
        {
            "layer": layer,
            "entropy_bits": float(measures[:, row, 0].mean()),
            "distance_patches": float(measures[:, row, 1].mean()),
        }
        for row, layer in enumerate(layers)
    ]
    found = {"table": table, "images": len(pictures)}
    path = save_results(folder, "attention", found, options, origin=origin, pictures=pictures)
    log.info("%s and %d pictures beside it", path, len(pictures))


def token_number(model: MaskedAutoencoder, place: tuple[int, int] | None) -> int:
    """Which token looks: 0 for the class token. Raises ConfigError outside the grid."""
    if place is None:
        return 0
    (row, column), (down, across) = place, model.grid
    if not (0 <= row < down and 0 <= column < across):
        raise ConfigError(f"--token {row} {column} lies outside the {down} x {across} patches")
    return 1 + row * across + column


def chosen_layers(model: MaskedAutoencoder, layers: tuple[int, ...]) -> list[int]:
    """Block numbers from 0. Raises ConfigError for a block that is not there."""
    depth = len(model.blocks)
    for layer in layers:
        if not -depth <= layer < depth:
            raise ConfigError(f"--layers {layer}: the encoder has blocks 0 to {depth - 1}")
    return [layer % depth for layer in layers] or list(range(depth))


@torch.no_grad()
def attention_maps(model: MaskedAutoencoder, images: Tensor) -> list[Tensor]:
    """softmax(q k^T / sqrt(d)) of every block of the encoder, float32 [B, h, N, N] each.

    images: uint8 [B, H, W, C]; all patches are visible. Row n is what token n looks at: it sums
    to 1.
    """
    mask = all_visible(model, images)
    with recorded_qkv(model.blocks) as recorded:
        (patches,) = model.visible_patches(images, mask)
        model.encode(patches, mask.ids_keep)
    return [
        attention_of(qkv, block.attn.num_heads)
        for qkv, block in zip(recorded, model.blocks, strict=True)
    ]


@contextlib.contextmanager
def recorded_qkv(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Inside, the list collects what each block's `attn.qkv` returns, [B, N, 3*h*d], in order."""
    recorded: list[Tensor] = []
    hooks = [
        block.attn.qkv.register_forward_hook(lambda _m, _i, output: recorded.append(output))
        for block in blocks
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def attention_of(qkv: Tensor, heads: int) -> Tensor:
    """Packed [B, N, 3*h*d] -> attention float32 [B, h, N, N]."""
    query, key, _ = qkv.float().unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)


def _measures(maps: Tensor, token: int, grid: tuple[int, int], image: int) -> np.ndarray:
    """Of each head [2, h]: entropy of the token's attention, and mean distance over all patches."""
    own = maps[image, :, token]
    entropy = -(own * own.clamp(min=1e-30).log2()).sum(-1)
    return torch.stack([entropy, mean_distance(maps[image], grid)]).cpu().numpy()


def mean_distance(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """How far patches look, in patches, by head [h]; attention [h, N, N].

    Mean over patches of the distance to the patches looked at, weighted by attention (the class
    token is left out and the rest rescaled); as in Dosovitskiy et al. (2020), figure 7.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).float().to(attention.device)
    patches = attention[:, 1:, 1:]
    patches = patches / patches.sum(-1, keepdim=True).clamp(min=1e-30)
    return (patches * torch.cdist(places, places)).sum(-1).mean(-1)


def draw(
    image: Tensor,
    looks: Tensor,
    layers: list[int],
    grid: tuple[int, int],
    token: tuple[int, int] | None,
    path: Path,
) -> None:
    """Heat over the gray image: a row for each layer, a column for each head, and their mean.

    image: uint8 [H, W, C]. looks: [layers, h, L]. token: framed where a patch looks.
    """
    height, width = image.shape[:2]
    heads = looks.shape[1]
    titles = ["image", "mean", *(f"head {head}" for head in range(heads))]
    inches = 1.1 if heads <= 8 else 0.85
    figure, axes = plt.subplots(
        len(layers), len(titles), squeeze=False, layout="constrained",
        figsize=(inches * len(titles) + 0.3, inches * len(layers) * height / width + 0.5),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    gray = displayable(image).mean(-1)
    for row, (line, layer) in enumerate(zip(axes, layers, strict=True)):
        heat = torch.cat([looks[row].mean(0, keepdim=True), looks[row]]).unflatten(-1, grid)
        heat = F.interpolate(heat[:, None], size=(height, width), mode="bilinear")[:, 0].numpy()
        line[0].imshow(displayable(image))
        for axis, values in zip(line[1:], heat, strict=True):
            axis.imshow(gray, cmap="gray", vmin=0, vmax=255)
            axis.imshow(values, cmap="inferno", alpha=0.65, vmin=0)
        line[0].set_ylabel(f"layer {layer}", fontsize=8)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            if token is not None:
                axis.add_patch(_frame(token, grid, image))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    who = "the class token" if token is None else f"the patch in row {token[0]}, column {token[1]}"
    figure.supxlabel(f"What {who} looks at; each map is scaled to its own maximum", fontsize=7)
    save_figure(figure, path)


def _frame(token: tuple[int, int], grid: tuple[int, int], image: Tensor) -> Any:
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    corner = token[1] * width - 0.5, token[0] * height - 0.5
    return plt.Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=1.2)
