"""AdamW's update in plain torch, in chunks that fit in a CPU cache: one pass over memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Values per chunk on a CPU: 2 MB of fp32 master and gradient, which are read twice. On a GPU,
where each chunk would cost several launches, everything is one chunk."""


@torch.no_grad()
def update_in_chunks(
    masters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor] | None,
    *,
    lr: Tensor | float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    scale: Tensor | None = None,
) -> None:
    """Update lists of tensors of equal shapes in place, bit-equal to torch's fused AdamW.

    masters, exp_avgs, exp_avg_sqs: of one dtype, fp32 unless the user chose another. gradients: any
    dtype, multiplied by `scale`. copies: receive the new masters in their own dtype. steps: number
    of updates, including this one. Any strides: torch's fused AdamW assumes contiguous tensors, so
    others are updated through a contiguous copy.
    """
    written = [masters, exp_avgs, exp_avg_sqs, *([copies] if copies else [])]
    dense = [[x.contiguous() for x in column] for column in (gradients, *written)]
    for numbers, (gradient, master, exp_avg, exp_avg_sq, *copy) in _chunks(dense):
        gradient = [x.to(master[0].dtype) for x in gradient]
        if scale is not None:
            gradient = torch._foreach_mul(gradient, scale)
        torch._fused_adamw_(
            master, gradient, exp_avg, exp_avg_sq, [], [steps[number] for number in numbers],
            lr=lr, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps,
            amsgrad=False, maximize=False,
        )  # fmt: skip
        if copy:
            torch._foreach_copy_(copy[0], master)
    for column, updated in zip(written, dense[1:], strict=True):
        for original, new in zip(column, updated, strict=True):
            if new is not original:
                original.copy_(new)


def _chunks(columns: Sequence[Sequence[Tensor]]) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Split the contiguous tensors of each column into chunks of at most CHUNK values in total.

    Yield for each chunk the numbers of its tensors, and its pieces of them by column.
    """
    chunk = CHUNK if all(x.is_cpu for x in columns[0]) else sys.maxsize
    pieces, size = [], 0
    for number, row in enumerate(zip(*columns, strict=True)):
        for piece in zip(*(x.view(-1).split(chunk) for x in row), strict=True):
            if pieces and size + piece[0].numel() > chunk:
                yield _columns(pieces)
                pieces, size = [], 0
            pieces.append((number, *piece))
            size += piece[0].numel()
    if pieces:
        yield _columns(pieces)


def _columns(pieces: list[tuple]) -> tuple[list[int], list[list[Tensor]]]:
    numbers, *tensors = zip(*pieces, strict=True)
    return list(numbers), [list(column) for column in tensors]
