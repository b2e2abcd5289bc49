"""Selection of a mask's visible or masked rows, with a gradient that needs no atomics.

B = batch, L = patches of an image, K = visible patches, M = masked patches, R = K or M, N = rows of
x: L, or more where tokens such as the class token come before the patches. D = width.

torch's gradient of a gather adds up with atomics on CUDA, in an order that varies. Here each row is
selected at most once, and `Mask.ids_restore` gives its new position, so the gradient is a gather,
too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels.checks import check_rows
from fastimae.kernels.random_masking import Mask
from fastimae.kernels.reference import gather_rows


class _GatherRows(torch.autograd.Function):
    """Rows of patches `ids` [B, R], whose ranks in ids_restore are start to start + R - 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ids: Tensor, ids_restore: Tensor, start: int) -> Tensor:
        ctx.save_for_backward(ids_restore)
        ctx.start, ctx.ahead = start, x.shape[1] - ids_restore.shape[1]
        return gather_rows(x, ids + ctx.ahead)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (ids_restore,) = ctx.saved_tensors
        row_BL = ids_restore - ctx.start + 1
        row_BL = row_BL.masked_fill((row_BL < 1) | (row_BL > grad.shape[1]), 0)
        # Row 0 is zeros, for all rows that were not selected.
        grad = F.pad(grad, (0, 0, 1, 0))
        return gather_rows(grad, F.pad(row_BL, (ctx.ahead, 0))), None, None, None


def visible_rows(x: Tensor, mask: Mask) -> Tensor:
    """Select the visible rows of x [B, N, D], any float dtype, in ascending order: [B, K, D]."""
    check_rows(x, mask.ids_keep, mask.ids_restore)
    return _GatherRows.apply(x, mask.ids_keep, mask.ids_restore, 0)


def masked_rows(x: Tensor, mask: Mask) -> Tensor:
    """Select the masked rows of x [B, N, D], any float dtype, in ascending order: [B, M, D]."""
    check_rows(x, mask.ids_masked, mask.ids_restore)
    return _GatherRows.apply(x, mask.ids_masked, mask.ids_restore, mask.ids_keep.shape[1])
