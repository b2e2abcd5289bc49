"""Attention maps of an encoder, and how wide they are.

B = images, H, W, C = height, width, channels, L = patches, N = 1 + L tokens (class token first),
h = heads, d = width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastimae.kernels.checks import check_bytes
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError

ROUNDING = 1e-6
"""Share of a sum that is taken for a rounding error: equal weights must not decide by it."""


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


def same_place(
    patch: tuple[int, int] | None, of: MaskedAutoencoder, model: MaskedAutoencoder
) -> tuple[int, int] | None:
    """Return the patch of `model` that covers the centre of a patch `of` another; None for None.

    Both models are for images of one size. Raises ConfigError for a patch outside the grid of `of`.
    """
    if patch is None:
        return None
    token_number(of, patch)
    row, column = (int((place + 0.5) * of.patch_size / model.patch_size) for place in patch)
    return row, column


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
    to 1. Several class tokens count as one, see `as_one_token`.
    """
    check_bytes("images", images)
    with recorded_qkv(model.blocks) as recorded:
        model.forward_features(images)
    return [
        as_one_token(attention_of(qkv, block.attn.num_heads), model.class_tokens)
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


def as_one_token(attention: Tensor, class_tokens: int) -> Tensor:
    """Make one of the class tokens that come first in attention [B, h, N, N].

    Ours, for Pixio: it attends as they do on average, and gets the attention that all of them get.
    """
    if class_tokens == 1:
        return attention
    first, others = attention[:, :, :class_tokens], attention[:, :, class_tokens:]
    rows = torch.cat([first.mean(2, keepdim=True), others], dim=2)
    gets = rows[..., :class_tokens].sum(-1, keepdim=True)
    return torch.cat([gets, rows[..., class_tokens:]], dim=-1)


def seen_by(map_BhNN: Tensor, token: int) -> Tensor:
    """Return the one map of each image that the hierarchical paper draws, [B, L] over patches.

    Its appendix C.4: the mean over heads for the class token (0), the first head for another.
    """
    if token == 0:
        return map_BhNN[:, :, 0, 1:].mean(1)
    return map_BhNN[:, 0, token, 1:]


def most_attended(weights: Tensor, mass: float) -> Tensor:
    """Return which weights are kept, bool [..., L]: the fewest that together hold a share `mass`.

    weights: [..., L], not negative; their sum counts as 1. The largest are kept, of equal ones the
    first. As DINO draws attention (Caron et al., 2021), with a mass of 0.6 there.
    """
    if mass >= 1:
        return torch.ones_like(weights, dtype=torch.bool)
    sizes, order = weights.double().sort(dim=-1, descending=True, stable=True)
    before = sizes.cumsum(-1) - sizes
    enough = mass * (1 - ROUNDING) * sizes.sum(-1, keepdim=True)
    return torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, before < enough)


def measure(map_BhNN: Tensor, token: int, grid: tuple[int, int], mass: float) -> dict[str, Tensor]:
    """Measure how wide attention is, float [B] each; means over heads unless stated otherwise.

    "entropy_bits": of the token's attention to all tokens. "distance_patches": `mean_distance` of
    all patches. "patch_share": share of the patches that hold the mass of the token's attention to
    patches, see `most_attended`; "patch_share_drawn": the same in the map of `seen_by`.
    """
    row_BhN = map_BhNN[:, :, token]
    entropy = -(row_BhN * row_BhN.clamp(min=1e-30).log2()).sum(-1)
    kept = most_attended(row_BhN[..., 1:], mass).float().mean(-1)
    drawn = most_attended(seen_by(map_BhNN, token), mass).float().mean(-1)
    return {
        "entropy_bits": entropy.mean(-1),
        "distance_patches": mean_distance(map_BhNN, grid).mean(-1),
        "patch_share": kept.mean(-1),
        "patch_share_drawn": drawn,
    }


def mean_distance(attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean attention distance of each head [..., h], in patches.

    attention: [..., h, N, N]. Mean over patches of the distance to the patches attended to,
    weighted by attention (the class token is left out and the rest rescaled); as in Dosovitskiy et
    al. (2020), figure 7.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], 1).float().to(attention.device)
    weight_hLL = attention[..., 1:, 1:]
    weight_hLL = weight_hLL / weight_hLL.sum(-1, keepdim=True).clamp(min=1e-30)
    return (weight_hLL * torch.cdist(centres, centres)).sum(-1).mean(-1)
