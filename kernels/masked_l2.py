"""Mean squared error on masked patches, with targets computed on the fly from the pixels.

N = images, H, W, C = their rows, columns, channels, P = patch size, D = P*P*C values of a patch,
M = masked patches of an image, n = branches, B = rows of a branch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels._boundary import boundary, kept_values
from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels._mean_square import MeanSquare, keep_difference, scale_branches
from fastimae.kernels._pixels import (
    dense_rows,
    gather_patches,
    normalise,
    pixel_offsets,
    scale_and_bias,
)
from fastimae.kernels.checks import check_images, check_prediction
from fastimae.kernels.reference import NORM_PIX_EPS

_MAX_VALUES = 24576  # per patch, as they are held in registers


@jit
def _masked_l2_kernel(
    pred_ptr,
    images_ptr,
    stride_n,
    stride_h,
    stride_w,
    stride_c,
    target_ptr,
    ids_ptr,
    stride_ids,
    scale_bias_ptr,
    visible_ptr,
    within_ptr,
    difference_ptr,
    sums_ptr,
    patches,
    masked,
    ids_rows,
    across,
    eps,
    PATCH: tl.constexpr,
    CHANNELS: tl.constexpr,
    DENSE: tl.constexpr,
    NORM_PIX: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """difference = pred - target, and the sum of its squares over each patch.

    target = pixels * scale + bias, then with NORM_PIX (target - mean) / sqrt(var + eps) over the
    patch; var is unbiased and takes a second pass over registers, as a one-pass variance can be
    negative on flat patches.

    pred: [patches = n*B*M, D], contiguous. images: [N, H, W, C]. target: [n*B]. ids:
    [ids_rows, M], repeated over branches. difference: as pred, for backward. sums: fp32 [patches].
    May be None: scale_bias for float images, difference where pred needs no gradient, and visible
    [ids_rows, M] and within [D] (see `_boundary`): the difference is 0 where they share a bit.
    Grid: ROWS patches per program, in chunks of [ROWS, CHUNK].
    """
    SIZE: tl.constexpr = PATCH * PATCH * CHANNELS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    valid = row < patches
    batch = row // masked
    image = tl.load(target_ptr + batch, mask=valid, other=0).to(tl.int64)
    ids_row = (batch % ids_rows).to(tl.int64)
    patch = tl.load(ids_ptr + ids_row * stride_ids + row % masked, mask=valid, other=0)
    patch = patch.to(tl.int32)
    start = row.to(tl.int64) * SIZE
    if visible_ptr is not None:
        visible = tl.load(visible_ptr + ids_row * masked + row % masked, mask=valid, other=0)

    masks, targets, preds = (), (), ()
    total = tl.zeros([ROWS, CHUNK], tl.float32)
    for first in tl.static_range(0, SIZE, CHUNK):
        value = first + tl.arange(0, CHUNK)[None, :]
        inside = valid & (value < SIZE) if first + CHUNK > SIZE else valid
        pixel = pixel_offsets(
            patch, value, across, stride_h, stride_w, stride_c, PATCH, CHANNELS, DENSE
        )
        if DENSE and PATCH * CHANNELS % 8 == 0:
            # Otherwise a thread takes 16 pixels, and so loads 32 bytes of pred in two halves.
            pixel = tl.max_contiguous(pixel, (1, 8))
        x = tl.load(images_ptr + (image * stride_n + pixel), mask=inside, other=0).to(tl.float32)
        pred = tl.load(pred_ptr + (start + value), mask=inside, other=0)
        if scale_bias_ptr is not None:
            place = value % (PATCH * CHANNELS)
            scale = tl.load(scale_bias_ptr + place)
            x = x * scale + tl.load(scale_bias_ptr + PATCH * CHANNELS + place)
        if first + CHUNK > SIZE:
            x = tl.where(inside, x, 0.0)
        total += x
        masks += (inside,)
        targets += (x,)
        preds += (pred,)

    if NORM_PIX:
        mean = tl.sum(total, 1, keep_dims=True) / SIZE
        total = tl.zeros([ROWS, CHUNK], tl.float32)
        for first in tl.static_range(0, SIZE, CHUNK):
            centred = targets[first // CHUNK] - mean
            if first + CHUNK > SIZE:
                centred = tl.where(masks[first // CHUNK], centred, 0.0)
            total += centred * centred
        inverse = 1 / tl.sqrt(tl.sum(total, 1, keep_dims=True) / (SIZE - 1) + eps)

    total = tl.zeros([ROWS, CHUNK], tl.float32)
    for first in tl.static_range(0, SIZE, CHUNK):
        value = first + tl.arange(0, CHUNK)[None, :]
        inside, x = masks[first // CHUNK], targets[first // CHUNK]
        if NORM_PIX:
            x = (x - mean) * inverse
        if visible_ptr is not None:
            within = tl.load(within_ptr + value, mask=value < SIZE, other=0)
            inside = inside & ((visible & within) == 0)
        difference = tl.where(inside, preds[first // CHUNK].to(tl.float32) - x, 0.0)
        total += difference * difference
        if difference_ptr is not None:
            emitted = difference.to(difference_ptr.dtype.element_ty)
            tl.store(difference_ptr + (start + value), emitted, mask=masks[first // CHUNK])
    tl.store(sums_ptr + row, tl.sum(total, 1, keep_dims=True), mask=valid)


def _settings(size: int) -> dict[str, int]:
    """Return tile and warps for patches of `size` values: up to 3 chunks, about 48 values a thread.

    For chunks of up to 256 values one warp holds whole patches, so that sums need no barrier. With
    more rows than threads, addresses would go through shared memory.
    """
    chunk = max(4, triton.next_power_of_2(triton.cdiv(size, 3)))
    warps = min(max(1, chunk // 256), 16)
    rows = min(max(1, 512 * warps // chunk), 32)
    return {"ROWS": rows, "CHUNK": chunk, "num_warps": warps}


@torch.library.custom_op("fastimae::masked_l2", mutates_args=())
def _masked_l2(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool,
    ignore_boundary: int,
    kept: Tensor | None,
    branches: int,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fp32 [n] means, pred - target, which is empty unless `save`, and a weight for each
    image's mean, fp32 [n*B], which is empty unless some pixels do not count."""
    loss, difference, weight = _empty_outputs(pred, ignore_boundary, kept, branches, save)
    rows, masked, size = pred.shape
    if not pred.numel():
        return loss.fill_(torch.nan), difference, weight
    pred, target = pred.contiguous(), target.contiguous()
    if ids_masked.stride(1) != 1:
        ids_masked = ids_masked.contiguous()
    statistics = tuple(mean), tuple(std)
    table = scale_and_bias(*statistics, patch_size, images.dtype, images.device)
    visible, within = boundary(weight, ids_masked, images, patch_size, ignore_boundary, kept)
    settings = _settings(size)
    sums = pred.new_empty(branches, rows * masked // branches, dtype=torch.float32)
    launch(
        _masked_l2_kernel,
        (triton.cdiv(rows * masked, settings["ROWS"]),),
        pred_ptr=pred,
        images_ptr=images,
        stride_n=images.stride(0),
        stride_h=images.stride(1),
        stride_w=images.stride(2),
        stride_c=images.stride(3),
        target_ptr=target,
        ids_ptr=ids_masked,
        stride_ids=ids_masked.stride(0),
        scale_bias_ptr=table,
        visible_ptr=visible,
        within_ptr=within,
        difference_ptr=difference if save else None,
        sums_ptr=sums,
        patches=rows * masked,
        masked=masked,
        ids_rows=len(ids_masked),
        across=images.shape[2] // patch_size,
        eps=NORM_PIX_EPS,
        PATCH=patch_size,
        CHANNELS=images.shape[3],
        DENSE=dense_rows(images),
        NORM_PIX=norm_pix,
        **settings,
    )
    if len(weight):
        sums = (sums.view(rows, masked).sum(1) * weight).view(branches, -1)
    torch.div(sums.sum(1), pred.numel() // branches, out=loss)
    return loss, difference, weight


@_masked_l2.register_fake
def _empty_outputs(pred: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    *_, ignore_boundary, kept, branches, save = rest
    loss = pred.new_empty(branches, dtype=torch.float32)
    weighted = ignore_boundary or kept is not None
    weight = pred.new_empty(len(pred) if weighted else 0, dtype=torch.float32)
    return loss, pred.new_empty(pred.shape if save else 0), weight


def _backward(ctx, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    difference, weight = ctx.saved_tensors
    if len(weight):  # each image is then scaled by itself
        rows = len(weight) // len(grad)
        grad = grad.repeat_interleave(rows) * weight / rows
    return scale_branches(difference, grad), *[None] * 11


_masked_l2.register_autograd(_backward, setup_context=keep_difference)


def _masked_l2_torch(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool,
    ignore_boundary: int,
    kept: Tensor | None,
    branches: int,
) -> Tensor:
    if len(ids_masked) < len(pred):
        ids_masked = ids_masked.repeat(branches, 1)
        kept = None if kept is None else kept.repeat(branches, 1)
    images = images.detach().contiguous()  # otherwise each gather would copy them
    target_BMD = normalise(gather_patches(images, ids_masked, patch_size, target), mean, std)
    size = target_BMD.shape[-1]
    if norm_pix:
        # layer_norm takes one pass, but divides by D where the unbiased variance divides by D - 1.
        share = (size - 1) / size
        weight_D = torch.full((size,), share**0.5, device=images.device)
        target_BMD = F.layer_norm(target_BMD, (size,), weight_D, eps=NORM_PIX_EPS * share)
    if not (ignore_boundary or kept is not None) or not pred.numel():
        return MeanSquare.apply(pred, target_BMD, branches, None)
    kept_BMD, weight_B = kept_values(ids_masked, images, patch_size, ignore_boundary, kept)
    mean_B = MeanSquare.apply(pred, target_BMD, len(pred), kept_BMD)
    return (mean_B * weight_B).view(branches, -1).mean(1)


def masked_l2(
    pred: Tensor,
    images: Tensor,
    target: Tensor,
    ids_masked: Tensor,
    patch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool,
    *,
    ignore_boundary: int = 0,
    kept: Tensor | None = None,
    branches: int | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Compute the mean squared error on masked patches (MAE, section 3).

    pred: [B, M, P*P*C] of any float dtype, rows in the order of ids_masked. images: uint8 or uint16
    [N, H, W, C], normalised here to (x / full - mean) / std by channel, with full = 255 or 65535;
    or float, treated as normalised. Any strides; rows whose W*C values are contiguous are read
    fastest. target: integer [B], the image that row b of pred reconstructs. ids_masked: integer
    [B, M], patch numbers. The caller must ensure that both are within range: see `checks`.
    patch_size: P, pixels.
    norm_pix: scale each target patch to mean 0 and variance 1, MAE's normalised target.
    ignore_boundary: leave out masked pixels that lie at most so many rows and at most so many
    columns from a pixel of a visible patch (one that is not in ids_masked); up to P. kept: bool,
    like ids_masked, the patches that count; None: all do. branches: pred and target are n stacked
    branches, [n*B, ...], with one mean each; ids_masked and kept may then be [B, M], shared by all.
    impl: "auto" uses Triton on CUDA and torch elsewhere.

    Returns a fp32 scalar, or fp32 [n] with `branches`: the mean over images of the mean over each
    one's pixels (0 if it keeps none), so that equal batches average to one large batch; NaN if pred
    is empty. The gradient reaches only pred, in its dtype, and is 0 at pixels that are left out.
    Raises ValueError or TypeError that names the argument that does not fit.
    """
    check_images(images, patch_size, mean, std)
    rest = patch_size, branches, ignore_boundary, kept
    check_prediction(pred, images, target, ids_masked, *rest)
    count, size = branches or 1, pred.shape[-1]
    obstacle = f"a patch has more than {_MAX_VALUES} values" if size > _MAX_VALUES else ""
    if use_triton("masked_l2", impl, pred, images, target, ids_masked, obstacle=obstacle):
        save = pred.requires_grad and torch.is_grad_enabled()
        args = (images, target, ids_masked, patch_size, list(mean), list(std), norm_pix)
        loss, *_ = torch.ops.fastimae.masked_l2(pred, *args, ignore_boundary, kept, count, save)
    else:
        args = (images, target, ids_masked, patch_size, mean, std, norm_pix)
        loss = _masked_l2_torch(pred, *args, ignore_boundary, kept, count)
    return loss.view(()) if branches is None else loss
