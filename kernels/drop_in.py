"""Three methods for other MAE code, with the names and signatures of facebookresearch/mae.

B = batch, C, H, W = image channels, rows, columns, P = patch size, L = patches of an image,
D = width. The model has `patch_embed.patch_size` (an int or a pair) and `norm_pix_loss`. See
docs/kernels.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastimae.kernels import reference
from fastimae.kernels.checks import check_float, check_shape
from fastimae.kernels.masked_l2 import masked_l2 as _masked_l2
from fastimae.kernels.random_masking import Mask
from fastimae.kernels.random_masking import random_masking as _random_masking
from fastimae.kernels.rows import masked_rows, visible_rows


def patchify(self: Any, imgs: Tensor) -> Tensor:
    """Cut imgs [B, C, H, W] into patches [B, L, P*P*C], pixels ordered (row, column, channel)."""
    check_shape("imgs", imgs, "B", "C", "H", "W")
    return reference.patchify(imgs.permute(0, 2, 3, 1), patch_size_of(self))


def random_masking(self: Any, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
    """Keep a random share of the rows of x [B, L, D], drawn from torch's generator on its device.

    Returns the kept rows [B, int(L * (1 - mask_ratio)), D] in ascending order, mask float32 [B, L]
    (1 where removed), and ids_restore int64 [B, L].
    """
    check_shape("x", x, "B", "L", "D")
    key = torch.randint(2**62, (len(x),), device=x.device)
    drawn = _random_masking(key, (1, x.shape[1]), mask_ratio)
    self._fastimae_mask = drawn
    return visible_rows(x, drawn), drawn.mask, drawn.ids_restore.long()


def forward_loss(self: Any, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean squared error on removed patches (MAE, section 3) in fp32.

    imgs: float [B, C, H, W], normalised. pred: [B, L, P*P*C]. mask: [B, L], 1 where removed; unless
    it is the one that `random_masking` returned last, the host waits to count it. Raises ValueError
    if they do not fit together.
    """
    patch, norm_pix = patch_size_of(self), bool(self.norm_pix_loss)
    _check_loss(imgs, pred, mask, patch)
    drawn = getattr(self, "_fastimae_mask", None)
    if drawn is None or drawn.mask is not mask:
        drawn = Mask.from_bool(mask.bool())
    images = imgs.permute(0, 2, 3, 1)
    pred_BMD = masked_rows(pred, drawn)
    target = torch.arange(len(imgs), device=imgs.device)
    return _masked_l2(pred_BMD, images, target, drawn.ids_masked, patch, (), (), norm_pix)


def _check_loss(imgs: Tensor, pred: Tensor, mask: Tensor, patch: int) -> None:
    """Raise ValueError unless pred and mask cover all patches of imgs."""
    check_shape("imgs", imgs, "B", "C", "H", "W")
    check_float("imgs", imgs)
    batch, channels, height, width = imgs.shape
    patches = (height // patch) * (width // patch)
    check_shape("pred", pred, batch, patches, patch**2 * channels)
    check_shape("mask", mask, batch, patches)


def patch_size_of(model: Any) -> int:
    """Return the side of a patch. Raises ValueError if patches are not square."""
    size = model.patch_embed.patch_size
    if isinstance(size, int):
        return size
    if size[0] != size[1]:
        raise ValueError(f"patches must be square, not {size[0]}x{size[1]} (patch_embed)")
    return int(size[0])
