"""The rows that a mask names, with a gradient that needs no atomics.

B = batch, L = patches of an image, K = visible patches, M = masked patches, N = rows of x: L, or
more where tokens like the class token come before the patches. D = width.

torch's own gradient of a gather adds up: atomics on CUDA, in an order of their own. Here each row
is taken at most once, and `Mask.ids_restore` knows where it went, so the gradient is a gather too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels.checks import check_rows
from fastimae.kernels.random_masking import Mask
from fastimae.kernels.reference import gather_rows


class _Rows(torch.autograd.Function):
    """Rows of patches `ids` [B, R], which have the ranks start to start + R - 1 in ids_restore."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ids: Tensor, ids_restore: Tensor, start: int) -> Tensor:
        ctx.save_for_backward(ids_restore)
        ctx.start, ctx.ahead = start, x.shape[1] - ids_restore.shape[1]
        return gather_rows(x, ids + ctx.ahead)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (ids_restore,) = ctx.saved_tensors
        row = ids_restore - ctx.start + 1
        row = row.masked_fill((row < 1) | (row > grad.shape[1]), 0)
        # Row 0, of zeros, is for all that were not taken.
        grad = F.pad(grad, (0, 0, 1, 0))
        return gather_rows(grad, F.pad(row, (ctx.ahead, 0))), None, None, None


def visible_rows(x: Tensor, mask: Mask) -> Tensor:
    """x [B, N, D], any float dtype -> its rows of visible patches in ascending order, [B, K, D]."""
    check_rows(x, mask.ids_keep, mask.ids_restore)
    return _Rows.apply(x, mask.ids_keep, mask.ids_restore, 0)


def masked_rows(x: Tensor, mask: Mask) -> Tensor:
    """x [B, N, D], any float dtype -> its rows of masked patches in ascending order, [B, M, D]."""
    check_rows(x, mask.ids_masked, mask.ids_restore)
    return _Rows.apply(x, mask.ids_masked, mask.ids_restore, mask.ids_keep.shape[1])
