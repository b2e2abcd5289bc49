"""fastimae-eval attention: where a token looks, as a heat map for each layer and head.

B = images, H, W, C = height, width, channels, L = patches, N = 1 + L tokens (class token first),
h = heads, d = width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fastimae.engine.distributed import alone
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.features import load_encoder
from fastimae.evaluate.images import random_indices
from fastimae.evaluate.options.figures import AttentionOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.kernels.checks import check_bytes
from fastimae.loaders.errors import DataError
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.pictures.picture_table import displayable
from fastimae.pictures.plots import plt, save_figure
from fastimae.settings import ConfigError

IMAGES_AT_ONCE = 8
"""Maps of all layers and heads take much memory."""


def run(options: AttentionOptions) -> None:
    """Draw attention-N.png for each image, and write entropies and distances to results.json."""
    with open_results(options, "attention") as results:
        _measure_and_draw(options, results)


def _measure_and_draw(options: AttentionOptions, results: Results) -> None:
    device = alone(options.device).device
    model = load_encoder(options.checkpoint, device, **options.of_model())
    origin = origin_of(options.checkpoint, model)
    token = token_number(model, options.token)
    layers = chosen_layers(model, options.layers)
    images = options.val_or_train_images()
    chosen = random_indices(images, options.samples, np.random.default_rng(options.seed))
    batches = CenterBatches(
        images, model.img_size, batch_size=IMAGES_AT_ONCE, workers=options.worker_count(),
        channels=model.in_chans, indices=chosen,
    )  # fmt: skip
    measures = []
    for pixels, _ in batches:
        maps = attention_maps(model, pixels.to(device))
        for b, image in enumerate(pixels):
            measures.append([_measure(maps[layer][b], token, model.grid) for layer in layers])
            attention = torch.stack([maps[layer][b, :, token, 1:] for layer in layers]).cpu()
            picture = results.picture(f"attention-{len(results.pictures)}.png")
            draw(image, attention, layers, model.grid, options.token, picture)
    if not measures:
        raise DataError(f"{images.source}: none of {len(chosen)} images can be read")
    numbers = {"table": _table(np.array(measures), layers), "images": len(measures)}
    path = results.save(numbers, origin=origin)
    log.info("%s and %d pictures beside it", path, len(measures))


def _table(measures: NDArray[np.float32], layers: Sequence[int]) -> list[dict[str, Any]]:
    """Average over images and heads. measures: [images, layers, 2, h], see `_measure`."""
    return [
        {
            "layer": layer,
            "entropy_bits": float(measures[:, row, 0].mean()),
            "distance_patches": float(measures[:, row, 1].mean()),
        }
        for row, layer in enumerate(layers)
    ]


def token_number(model: MaskedAutoencoder, patch: tuple[int, int] | None) -> int:
    """Return the number of a patch's token, 0 for the class token (None).

    Raises ConfigError for a patch outside the grid.
    """
    if patch is None:
        return 0
    (row, column), (rows, columns) = patch, model.grid
    if not (0 <= row < rows and 0 <= column < columns):
        raise ConfigError(f"--token {row} {column} is outside the {rows} x {columns} patches")
    return 1 + row * columns + column


def chosen_layers(model: MaskedAutoencoder, layers: tuple[int, ...]) -> list[int]:
    """Return block numbers from 0. Raises ConfigError for a block that does not exist."""
    depth = len(model.blocks)
    for layer in layers:
        if not -depth <= layer < depth:
            raise ConfigError(f"--layers {layer}: the encoder has blocks 0 to {depth - 1}")
    return [layer % depth for layer in layers] or list(range(depth))


@torch.no_grad()
def attention_maps(model: MaskedAutoencoder, images: Tensor) -> list[Tensor]:
    """Compute softmax(q k^T / sqrt(d)) of every block of the encoder, float32 [B, h, N, N] each.

    images: uint8 [B, H, W, C]; all patches are visible. Row n is the attention of token n: it sums
    to 1.
    """
    check_bytes("images", images)
    with recorded_qkv(model.blocks) as recorded:
        model.forward_features(images)
    return [
        attention_of(qkv, block.attn.num_heads)
        for qkv, block in zip(recorded, model.blocks, strict=True)
    ]


@contextlib.contextmanager
def recorded_qkv(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect the queries, keys and values of each block, [B, N, 3*h*d], while inside.

    They are computed again from the input of `attn`, which uses the weights of `qkv` without
    calling it.
    """
    recorded: list[Tensor] = []
    hooks = [
        block.attn.register_forward_hook(lambda attn, args, _: recorded.append(attn.qkv(args[0])))
        for block in blocks
    ]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def attention_of(qkv: Tensor, heads: int) -> Tensor:
    """Compute attention, float32 [B, h, N, N], of packed queries, keys and values [B, N, 3*h*d]."""
    q_BhNd, k_BhNd, _ = qkv.float().unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q_BhNd @ k_BhNd.transpose(-2, -1) * q_BhNd.shape[-1] ** -0.5).softmax(-1)


def _measure(map_hNN: Tensor, token: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Measure each head [2, h]: entropy of the token's attention, mean distance of all patches'."""
    row_hN = map_hNN[:, token]
    entropy = -(row_hN * row_hN.clamp(min=1e-30).log2()).sum(-1)
    return torch.stack([entropy, mean_distance(map_hNN, grid)]).cpu().numpy()


def mean_distance(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean attention distance of each head [h], in patches; attention: [h, N, N].

    Mean over patches of the distance to the patches attended to, weighted by attention (the class
    token is left out and the rest rescaled); as in Dosovitskiy et al. (2020), figure 7.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], 1).float().to(attention.device)
    weight_hLL = attention[:, 1:, 1:]
    weight_hLL = weight_hLL / weight_hLL.sum(-1, keepdim=True).clamp(min=1e-30)
    return (weight_hLL * torch.cdist(centres, centres)).sum(-1).mean(-1)


def draw(
    image: Tensor,
    attention: Tensor,
    layers: list[int],
    grid: tuple[int, int],
    token: tuple[int, int] | None,
    path: Path,
) -> None:
    """Draw heat over the gray image: a row for each layer, a column for each head, and their mean.

    image: uint8 [H, W, C]. attention: [layers, h, L]. token: a patch to frame.
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
            axis.imshow(heat, cmap="inferno", alpha=0.65, vmin=0)
        line[0].set_ylabel(f"layer {layer}", fontsize=8)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            if token is not None:
                axis.add_patch(_frame(token, grid, image))
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    name = "the class token" if token is None else f"the patch in row {token[0]}, column {token[1]}"
    figure.supxlabel(
        f"What {name} looks at; each map is scaled to its own maximum", fontsize=7, wrap=True
    )
    save_figure(figure, path)


def _heat(row_hL: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize the mean over heads, and each head's attention, to images [1 + h, H, W]."""
    maps = torch.cat([row_hL.mean(0, keepdim=True), row_hL]).unflatten(-1, grid)
    return F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0].numpy()


def _frame(token: tuple[int, int], grid: tuple[int, int], image: Tensor) -> Any:
    height, width = image.shape[0] / grid[0], image.shape[1] / grid[1]
    corner = token[1] * width - 0.5, token[0] * height - 0.5
    return plt.Rectangle(corner, width, height, fill=False, edgecolor="cyan", linewidth=1.2)
