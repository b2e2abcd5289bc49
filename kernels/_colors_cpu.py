"""Changed colours on the CPU: samples that share an order, in blocks that fit into a cache.

B = batch, N = pixels of a sample, n = samples of a block. Colours are in 0..255, as in `_colors`,
and a plane for each channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._pixels import gather_patches
from fastimae.kernels.reference_colors import LUMA, ORDERS

_BLOCK = 1 << 16
"""Pixels of a block, at most, unless a single sample has more: 768 kB in fp32."""


def change_on_cpu(
    images: Tensor,
    ids_keep: Tensor | None,
    factors: Tensor,
    patch_size: int,
    scale_bias: Tensor | None,
    out: Tensor,
) -> None:
    """Fill out [B, N, 3]: see `change_colors`.

    In a block each change is made once. A batch without orders would need all four at each place.
    """
    pixels_BN3 = images.flatten(1, 2)
    if ids_keep is not None:
        pixels_BN3 = gather_patches(images.contiguous(), ids_keep, patch_size).view(out.shape)
    changed_B = (factors[:, :4] != factors.new_tensor((1, 1, 1, 0))).any(1)
    number_B = factors[:, 4].where(changed_B, -1)
    each = max(_BLOCK // out.shape[1], 1)
    for number in number_B.long().unique().tolist():
        order = ORDERS[number] if number >= 0 else ()
        for rows in (number_B == number).nonzero()[:, 0].split(each):
            x_3nN = torch.empty(3, len(rows), out.shape[1])
            x_3nN.copy_(pixels_BN3[rows].permute(2, 0, 1))
            x_3nN = _changed(x_3nN, factors[rows], order)
            if scale_bias is None:
                x_3nN += 0.5  # bytes are cut off
            else:
                x_3nN.mul_(scale_bias[0, :, None, None]).add_(scale_bias[1, :, None, None])
            out.index_copy_(0, rows, x_3nN.to(out.dtype).permute(1, 2, 0).contiguous())


def _changed(x: Tensor, factors_n6: Tensor, order: tuple[int, ...]) -> Tensor:
    for change in order:
        factor_n1 = factors_n6[:, change, None]
        if change == 3:
            x = _shifted_hue(x, factor_n1)
        elif change == 0:
            x = x.mul_(factor_n1).clamp_(max=255)
        else:
            other = _gray(x) if change == 2 else _gray(x).mean(-1, keepdim=True)
            x = x.mul_(factor_n1).add_((1 - factor_n1) * other).clamp_(0, 255)
    turned = factors_n6[:, 5].nonzero()[:, 0]
    if len(turned):
        x[:, turned] = _gray(x[:, turned])
    return x


def _gray(x: Tensor) -> Tensor:
    red, green, blue = x
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _shifted_hue(x: Tensor, shift_n1: Tensor) -> Tensor:
    red, green, blue = x
    high, low = x.amax(0), x.amin(0)
    chroma = high - low
    sixths = (red - green).add_(chroma, alpha=4)
    sixths = torch.where(high == green, (blue - red).add_(chroma, alpha=2), sixths)
    sixths = torch.where(high == red, green - blue, sixths).div_(chroma.clamp(min=1e-6))
    sixths += 6 * shift_n1
    for channel, offset in zip(x, (3, 1, -1), strict=True):
        # Distance on the circle from where the channel is lowest.
        place = sixths + offset
        place.sub_((place / 6).round_(), alpha=6).abs_()
        ramp = place.neg_().add_(2).clamp_(0, 1)
        torch.addcmul(high, chroma, ramp, value=-1, out=channel)
    return x
