"""Every op in plain torch: the specification that faster implementations are tested against.

It refuses what they refuse, by the same checks.

B = batch, H, W, C = image rows, columns, channels, P = patch size, L = patches of an image,
K = visible patches, M = masked patches, E = token width. The pixels of a patch are ordered
(row, column, channel), as in MAE's targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels.checks import (
    check_grid,
    check_key,
    check_latents,
    check_mixture,
    check_prediction,
    check_qkv,
    check_shape,
    check_tokens,
)
from fastimae.kernels.random_masking import philox

NORM_PIX_EPS = 1e-6
MIXING_STREAM = 2  # masks use stream 0 of a key, crops stream 1


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[B, H, W, C] -> [B, L, P*P*C] of the same dtype."""
    check_shape("images", images, "B", "H", "W", "C")
    check_grid(images, patch_size)
    b, height, width, c = images.shape
    p = patch_size
    grid = images.reshape(b, height // p, p, width // p, p, c).transpose(2, 3)
    return grid.flatten(1, 2).flatten(2)


def unpatchify(patches: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """[B, L, P*P*C] -> [B, H, W, C], the inverse of `patchify` for a grid of patches."""
    down, across = grid
    check_shape("patches", patches, "B", down * across, "P*P*C")
    p = round((patches.shape[-1] // channels) ** 0.5)
    batch = len(patches)
    image = patches.reshape(batch, down, across, p, p, channels).transpose(2, 3)
    return image.reshape(batch, down * p, across * p, channels)


def normalise(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 patches -> fp32 (x / 255 - mean) / std by channel; float patches are taken as done."""
    if patches.is_floating_point():
        return patches.float()
    repeat = patches.shape[-1] // len(mean)
    mean_t = constants(mean, patches.device).repeat(repeat)
    std_t = constants(std, patches.device).repeat(repeat)
    return (patches.float() / 255 - mean_t) / std_t


def constants(values: Sequence[float], device: torch.device) -> Tensor:
    """fp32 [n], made on the device: a copy of a list would wait for it."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])


def gather_rows(x: Tensor, ids: Tensor, source: Tensor | None = None) -> Tensor:
    """x [N, L, D], ids integer [B, K] -> [B, K, D], row b taken from x[b] or x[source[b]]."""
    if source is None:
        source = torch.arange(len(ids), device=ids.device)
    rows = (ids + source[:, None] * x.shape[1]).flatten()
    return x.flatten(0, 1).index_select(0, rows).view(*ids.shape, x.shape[-1])


def mixing_ratio(key: Tensor, quantiles: Tensor) -> Tensor:
    """Weight s = min(lambda, 1 - lambda) of the subordinate image (i-MAE, section 3.1).

    key: int64 [B]. quantiles: fp32 [n + 1], those of lambda at 0, 1/n, ..., 1. Returns fp32 [B]:
    lambda is the quantile of a uniform draw, linear between the entries of the table.
    """
    check_key(key)
    word = philox(key, torch.zeros_like(key), MIXING_STREAM)[0]
    place = word.double() * ((len(quantiles) - 1) / 2**32)
    low = place.long()
    drawn = torch.lerp(quantiles[low], quantiles[low + 1], (place - low).float())
    return torch.minimum(drawn, 1 - drawn)


def mix_patchify(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None = None,
    alpha: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Visible patches of the images and, with a partner, of the mixtures (i-MAE, section 3.1).

    images: uint8 [B, H, W, C], or float already normalised. ids_keep: integer [B, K].
    partner: int64 [B]. alpha: float [B], weight of the image itself; its partner has 1 - alpha.

    Returns fp32 [B, K, P*P*C] each: (clean,) without partner, else (mixed, clean, clean partner).
    """
    check_mixture(images, ids_keep, patch_size, partner, alpha)
    patches = patchify(images, patch_size)
    clean = normalise(gather_rows(patches, ids_keep), mean, std)
    if partner is None:
        return (clean,)
    other = normalise(gather_rows(patches, ids_keep, partner), mean, std)
    weight = alpha.float()[:, None, None]
    return weight * clean + (1 - weight) * other, clean, other


def assemble_tokens(
    x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor
) -> Tensor:
    """Decoder input: visible tokens put back, mask tokens elsewhere, positions added.

    x: [B, 1 + K, E] (class token first). mask_token: [1, 1, E]. positions: [1, 1 + L, E].
    ids_restore: integer [B, L]. Returns [B, 1 + L, E] in the dtype of x.
    """
    check_tokens(x, mask_token, positions, ids_restore)
    masked = ids_restore.shape[1] + 1 - x.shape[1]
    fill = mask_token.to(x.dtype).expand(len(x), masked, -1)
    patches = gather_rows(torch.cat([x[:, 1:], fill], dim=1), ids_restore)
    return torch.cat([x[:, :1], patches], dim=1) + positions.to(x.dtype)


def masked_l2(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool,
) -> Tensor:
    """Mean squared error on masked patches (MAE, section 3; `norm_pix`: its normalised target).

    pred: [B, M, P*P*C], rows in the order of ids_masked. images: uint8 [N, H, W, C], or float
    already normalised. target: int64 [B], image that row b of pred reconstructs.
    ids_masked: integer [B, M]. Returns a fp32 scalar, the mean over all rows and pixels.
    """
    check_prediction(pred, images, target, ids_masked, patch_size, branches=None)
    patches = normalise(gather_rows(patchify(images, patch_size), ids_masked, target), mean, std)
    if norm_pix:
        patches = normalise_patches(patches)
    return (pred.float() - patches).square().mean()


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch to mean 0 and unbiased variance 1 (MAE, section 4, "reconstruction target")."""
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(unbiased variance + 1e-6) of the last axis, kept as an axis of size 1."""
    variance = patches.var(dim=-1, keepdim=True)
    return patches.mean(dim=-1, keepdim=True), (variance + NORM_PIX_EPS).sqrt()


def latent_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of latents (i-MAE, equation 5), no gradient to the teacher.

    Both of one shape, any float dtype. Returns a fp32 scalar.
    """
    check_latents(student, teacher)
    return (student.float() - teacher.detach().float()).square().mean()


def attention(qkv: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. qkv: [B, N, 3, h, d]. Returns [B, N, h * d]."""
    check_qkv(qkv)
    q, k, v = qkv.float().permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2).to(qkv.dtype)
