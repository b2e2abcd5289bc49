"""Every op in plain torch: the specification that faster implementations are tested against.

Invalid arguments raise the same errors, from the same checks.

B = batch, N = images or tokens, H, W, C = image rows, columns, channels, P = patch size,
L = patches of an image, K = visible patches, M = masked patches, D = width (of a patch: P*P*C),
E = token width, h = heads, d = head width. The pixels of a patch are ordered (row, column,
channel), as in MAE's targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels.checks import (
    check_add_norm,
    check_grid,
    check_key,
    check_latents,
    check_mixture,
    check_mlp,
    check_pair,
    check_prediction,
    check_qkv,
    check_shape,
    check_spread,
    check_tokens,
    class_tokens,
)
from fastimae.kernels.random_masking import Mask, philox

NORM_PIX_EPS = 1e-6
MIXING_STREAM = 2
"""Philox stream of mixing ratios: see `fastimae.loaders.order.philox.DrawStream`."""


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images [B, H, W, C] into patches [B, L, P*P*C] of the same dtype."""
    check_shape("images", images, "B", "H", "W", "C")
    check_grid(images, patch_size)
    b, height, width, c = images.shape
    p = patch_size
    grid = images.reshape(b, height // p, p, width // p, p, c).transpose(2, 3)
    return grid.flatten(1, 2).flatten(2)


def unpatchify(patches: Tensor, grid: tuple[int, int], channels: int) -> Tensor:
    """Assemble images [B, H, W, C] from a grid of patches [B, L, P*P*C]: inverts `patchify`."""
    down, across = grid
    check_shape("patches", patches, "B", down * across, "P*P*C")
    p = round((patches.shape[-1] // channels) ** 0.5)
    batch = len(patches)
    image = patches.reshape(batch, down, across, p, p, channels).transpose(2, 3)
    return image.reshape(batch, down * p, across * p, channels)


def normalise(patches: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return uint8 patches as fp32 (x / 255 - mean) / std by channel, float ones as fp32 only."""
    if patches.is_floating_point():
        return patches.float()
    repeat = patches.shape[-1] // len(mean)
    mean_D = constants(mean, patches.device).repeat(repeat)
    std_D = constants(std, patches.device).repeat(repeat)
    return (patches.float() / 255 - mean_D) / std_D


def constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Return fp32 [len(values)], made on the device: copying a list would wait for it."""
    return torch.cat([torch.full((1,), value, device=device) for value in values])


def gather_rows(x: Tensor, ids: Tensor, source: Tensor | None = None) -> Tensor:
    """Gather rows ids, integer [B, K], of x [N, L, D], from x[b] or x[source[b]]: [B, K, D]."""
    if source is None:
        source = torch.arange(len(ids), device=ids.device)
    rows = (ids + source[:, None] * x.shape[1]).flatten()
    return x.flatten(0, 1).index_select(0, rows).view(*ids.shape, x.shape[-1])


def mixing_ratio(key: Tensor, quantiles: Tensor) -> Tensor:
    """Draw the subordinate image's weight s = min(lambda, 1 - lambda) (i-MAE, section 3.1).

    key: int64 [B]. quantiles: fp32 [n + 1], the quantiles of lambda at 0, 1/n, ..., 1. Returns fp32
    [B]: lambda is the quantile of a uniform draw, linear between the entries of the table.
    """
    check_key(key)
    word_B = philox(key, torch.zeros_like(key), MIXING_STREAM)[0]
    drawn_B = at_quantile(word_B, quantiles)
    return torch.minimum(drawn_B, 1 - drawn_B)


def at_quantile(word: Tensor, quantiles: Tensor) -> Tensor:
    """Turn uniform words in [0, 2^32), int64 [B], into draws of a distribution, [B].

    quantiles: float [n + 1], those at 0, 1/n, ..., 1. A draw is linear between two of them.
    """
    position_B = word.double() * ((len(quantiles) - 1) / 2**32)
    low_B = position_B.long()
    share_B = (position_B - low_B).to(quantiles.dtype)
    return torch.lerp(quantiles[low_B], quantiles[low_B + 1], share_B)


def mix_patchify(
    images: Tensor,
    ids_keep: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    partner: Tensor | None = None,
    alpha: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Extract visible patches of images or, with a partner, of mixtures (i-MAE, section 3.1).

    images: uint8 [B, H, W, C], or float already normalised. ids_keep: integer [B, K].
    partner: int64 [B]. alpha: float [B], weight of the image itself; its partner has 1 - alpha.

    Returns fp32 [B, K, P*P*C] each: (clean,) without partner, else (mixed, clean, clean partner).
    """
    check_mixture(images, ids_keep, patch_size, partner, alpha)
    patches_BLD = patchify(images, patch_size)
    clean_BKD = normalise(gather_rows(patches_BLD, ids_keep), mean, std)
    if partner is None:
        return (clean_BKD,)
    other_BKD = normalise(gather_rows(patches_BLD, ids_keep, partner), mean, std)
    weight_B11 = alpha.float()[:, None, None]
    return weight_B11 * clean_BKD + (1 - weight_B11) * other_BKD, clean_BKD, other_BKD


def assemble_tokens(
    x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor
) -> Tensor:
    """Put visible tokens in their positions and mask tokens elsewhere, and add the positions.

    x: [B, n + K, E], n >= 1 class tokens first. mask_token: [1, 1, E]. positions: [1, n + L, E].
    ids_restore: integer [B, L]. Returns [B, n + L, E] in the dtype of x.
    """
    check_tokens(x, mask_token, positions, ids_restore)
    n = positions.shape[1] - ids_restore.shape[1]
    fill_BME = mask_token.to(x.dtype).expand(len(x), positions.shape[1] - x.shape[1], -1)
    patches_BLE = gather_rows(torch.cat([x[:, n:], fill_BME], dim=1), ids_restore)
    return torch.cat([x[:, :n], patches_BLE], dim=1) + positions.to(x.dtype)


def add_norm(
    x: Tensor, change: Tensor, bias: Tensor | None, weight: Tensor, norm_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return x + change and its layer norm, computed in fp32 or better.

    x, change: [..., D], the others [D]. bias: a late bias, which change already includes, or None:
    its value has no effect, but it gets the gradient it would have if it were added here.
    """
    check_add_norm(x, change, bias, weight, norm_bias)
    if bias is not None:
        change = change + (bias - bias.detach())
    total = x + change
    values = total.to(torch.promote_types(total.dtype, torch.float32))
    centred = values - values.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + norm_bias
    return total, normed.to(total.dtype)


def spread_rows(rows: Tensor, mask: Mask) -> Tensor:
    """Expand rows of visible patches, and of the mask token at each position, to all tokens.

    rows: [B * (n + K) + L, D], n >= 1 class tokens and visible patches of each sample in turn, then
    a row for each patch where it is masked. Returns [B, n + L, D] in the dtype of rows.
    """
    check_spread(rows, mask.ids_keep, mask.ids_restore)
    (batch, keep), patches = mask.ids_keep.shape, mask.ids_restore.shape[1]
    n = class_tokens(len(rows), batch, keep, patches)
    visible, shared_LD = rows.tensor_split([batch * (n + keep)])
    visible_BND = visible.unflatten(0, (batch, n + keep))
    masked_BMD = gather_rows(shared_LD[None].expand(batch, -1, -1), mask.ids_masked)
    patches_BLD = torch.cat([visible_BND[:, n:], masked_BMD], dim=1)
    return torch.cat([visible_BND[:, :n], gather_rows(patches_BLD, mask.ids_restore)], dim=1)


def masked_l2(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool,
    ignore_boundary: int = 0,
    kept: Tensor | None = None,
) -> Tensor:
    """Compute the mean squared error on masked patches (MAE, section 3).

    pred: [B, M, P*P*C], rows in the order of ids_masked. images: uint8 [N, H, W, C], or float
    already normalised. target: int64 [B], the image that row b of pred reconstructs. ids_masked:
    integer [B, M]; all other patches are visible. norm_pix: use MAE's normalised target.
    ignore_boundary: leave out pixels with a visible one at most so many rows and columns away.
    kept: bool [B, M], the rows that count. Returns a fp32 scalar, the mean over images of the mean
    over the pixels of each that count; 0 for an image that has none.
    """
    check_prediction(pred, images, target, ids_masked, patch_size, None, ignore_boundary, kept)
    patches_NLD = patchify(images, patch_size)
    target_BMD = normalise(gather_rows(patches_NLD, ids_masked, target), mean, std)
    if norm_pix:
        target_BMD = normalise_patches(target_BMD)
    square_BMD = (pred.float() - target_BMD).square()
    if kept is not None:
        return _mean_of_kept(square_BMD.mean(-1), kept)
    if not ignore_boundary:
        return square_BMD.mean()
    grid = images.shape[1] // patch_size, images.shape[2] // patch_size
    kept_BMD = ~near_visible(ids_masked, grid, patch_size, ignore_boundary, images.shape[3])
    sum_B = square_BMD.where(kept_BMD, 0).sum((1, 2))
    return (sum_B / kept_BMD.sum((1, 2)).clamp(min=1)).mean()


def near_visible(
    ids_masked: Tensor, grid: tuple[int, int], patch_size: int, reach: int, channels: int
) -> Tensor:
    """Return bool [B, M, P*P*C]: whether a pixel has a visible one within its reach.

    That is at most `reach` rows and at most `reach` columns away. Beyond the border of the image
    nothing is visible.
    """
    visible_BL = torch.ones(len(ids_masked), grid[0] * grid[1], device=ids_masked.device)
    visible_BL.scatter_(1, ids_masked.long(), 0)
    pixels_BLD = visible_BL[..., None].expand(-1, -1, patch_size**2 * channels)
    image_BHWC = unpatchify(pixels_BLD, grid, channels)
    near_BCHW, window = image_BHWC.permute(0, 3, 1, 2), 2 * reach + 1
    near_BCHW = F.max_pool2d(near_BCHW, (window, 1), 1, (reach, 0))
    near_BCHW = F.max_pool2d(near_BCHW, (1, window), 1, (0, reach))
    return gather_rows(patchify(near_BCHW.permute(0, 2, 3, 1), patch_size), ids_masked) > 0


def normalise_patches(patches: Tensor) -> Tensor:
    """Scale each patch to mean 0 and unbiased variance 1 (MAE, section 4)."""
    mean, std = patch_statistics(patches)
    return (patches - mean) / std


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and sqrt(unbiased variance + 1e-6) of the last axis, kept with size 1."""
    variance = patches.var(dim=-1, keepdim=True)
    return patches.mean(dim=-1, keepdim=True), (variance + NORM_PIX_EPS).sqrt()


def latent_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean squared distance of latents (i-MAE, equation 5), a fp32 scalar.

    Both have the same shape and any float dtype. The teacher gets no gradient.
    """
    check_latents(student, teacher)
    return (student.float() - teacher.detach().float()).square().mean()


def pair_l2(first: Tensor, second: Tensor, kept: Tensor | None = None) -> Tensor:
    """Compute the mean squared distance of two predictions (occlusion-invariant MIM, equation 5).

    first, second: [B, M, D], any float dtype; the gradient reaches both. kept: bool [B, M], the
    rows that count. Returns a fp32 scalar, the mean over images of the mean over the rows of each
    that count; 0 for an image that has none.
    """
    check_pair(first, second, kept)
    square_BM = (first.float() - second.float()).square().mean(-1)
    return square_BM.mean() if kept is None else _mean_of_kept(square_BM, kept)


def _mean_of_kept(square_BM: Tensor, kept_BM: Tensor) -> Tensor:
    sum_B = square_BM.where(kept_BM, 0).sum(1)
    return (sum_B / kept_BM.sum(1).clamp(min=1)).mean()


def attention(qkv: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v. qkv: [B, N, 3, h, d]. Returns [B, N, h * d].

    bias: [3 * h * d], a late bias, which qkv already includes: its value has no effect, but it gets
    the gradient it would have if it were added here.
    """
    check_qkv(qkv, bias)
    if bias is not None:
        qkv = qkv + (bias - bias.detach()).view(qkv.shape[2:]).to(qkv.dtype)
    q_BhNd, k_BhNd, v_BhNd = qkv.float().permute(2, 0, 3, 1, 4)
    weights_BhNN = (q_BhNd @ k_BhNd.transpose(-2, -1) / q_BhNd.shape[-1] ** 0.5).softmax(-1)
    return (weights_BhNN @ v_BhNd).transpose(1, 2).flatten(2).to(qkv.dtype)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Compute gelu(x weight1^T + bias1) weight2^T + bias2 for x [..., d]: [..., d'] like x."""
    check_mlp(x, weight1, bias1, weight2, bias2)
    h = x.float() @ weight1.float().t() + bias1.float()
    activated = h * (1 + torch.erf(h / 2**0.5)) / 2
    return (activated @ weight2.float().t() + bias2.float()).to(x.dtype)
