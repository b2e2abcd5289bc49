"""Attention of longer sequences: keys in blocks, softmax online (Milakov & Gimelshein, 2018).

B = batch, N = TOKENS, h = heads, d = head width, D = d padded to a power of two. Forward goes
over blocks of keys, backward once over blocks of keys and once over blocks of queries, so that
no sum needs atomics. Order: kernels, settings, launchers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels._attention_tile import load_rows, operand, pad, store_rows, strided
from fastimae.kernels._launch import jit, launch, tl


@jit
def _forward_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, out_ptr, lse_ptr, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """out = softmax(scale q k^T) v of one block of queries of one head.

    qkv: [B, N, 3, h, d], strides in units of 8 elements. out: [B, N, h * d], contiguous.
    lse: fp32 [B, h, N up to a multiple of ROWS], saved for backward: log2 of the sum of
    exp(scale q k^T). Grid: B * h * blocks of queries.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    BLOCKS: tl.constexpr = (TOKENS + ROWS - 1) // ROWS
    sequence, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    sample, head = sequence // HEADS, sequence % HEADS
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
    scale_log2 = scale * 1.4426950408889634

    row = block * ROWS + tl.arange(0, ROWS)
    q = load_rows(q_ptr, stride_b, stride_n, sample, row, row < TOKENS, WIDTH, PADDED, OPERAND)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    out = tl.zeros((ROWS, PADDED), tl.float32)
    # Without LICM, which would move more to registers than there are for D = 128.
    for start in tl.range(0, TOKENS, ROWS, disable_licm=True):
        key = start + tl.arange(0, ROWS)
        there = key < TOKENS
        k = load_rows(k_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
        v = load_rows(v_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale_log2
        score = tl.where(there[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(p, 1)
        out = tl.dot(p.to(OPERAND), v, out * shrink[:, None], input_precision="ieee")
        top = higher
    out = out / total[:, None]
    WHOLE: tl.constexpr = HEADS * WIDTH
    tl.store(lse_ptr + sequence.to(tl.int64) * (BLOCKS * ROWS) + row, top + tl.log2(total))
    out_ptr += head * WIDTH
    store_rows(out_ptr, TOKENS * WHOLE, WHOLE, sample, row, row < TOKENS, out, WIDTH, PADDED)


@jit
def _backward_queries_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, out_ptr, grad_ptr, lse_ptr, delta_ptr,
    grad_qkv_ptr, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """grad_q = scale p (grad v^T - delta) k of one block of queries; on the grid of forward.

    p = exp(scale q k^T) / sum. Writes delta = rowsum(grad * out), of lse's shape, for
    `_backward_keys_kernel`. out, grad: [B, N, h * d]. grad_qkv: [B, N, 3, h, d], all contiguous.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    BLOCKS: tl.constexpr = (TOKENS + ROWS - 1) // ROWS
    sequence, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    sample, head = sequence // HEADS, sequence % HEADS
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
    WHOLE: tl.constexpr = HEADS * WIDTH
    scale_log2 = scale * 1.4426950408889634
    out_ptr, grad_ptr = out_ptr + head * WIDTH, grad_ptr + head * WIDTH

    row = block * ROWS + tl.arange(0, ROWS)
    inside = row < TOKENS
    q = load_rows(q_ptr, stride_b, stride_n, sample, row, inside, WIDTH, PADDED, OPERAND)
    out = load_rows(out_ptr, TOKENS * WHOLE, WHOLE, sample, row, inside, WIDTH, PADDED, OPERAND)
    grad = load_rows(grad_ptr, TOKENS * WHOLE, WHOLE, sample, row, inside, WIDTH, PADDED, OPERAND)
    saved = sequence.to(tl.int64) * (BLOCKS * ROWS) + row
    lse = tl.load(lse_ptr + saved)
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + saved, delta)
    grad_q = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, TOKENS, ROWS):
        key = start + tl.arange(0, ROWS)
        there = key < TOKENS
        k = load_rows(k_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
        v = load_rows(v_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
        score = tl.dot(q, tl.trans(k), input_precision="ieee")
        score = tl.where(there[None, :], score, float("-inf"))
        p = tl.exp2(score * scale_log2 - lse[:, None])
        grad_p = tl.dot(grad, tl.trans(v), input_precision="ieee")
        grad_score = (p * (grad_p - delta[:, None])).to(OPERAND)
        grad_q = tl.dot(grad_score, k, grad_q, input_precision="ieee")
    grad_q *= scale
    grad_q_ptr = grad_qkv_ptr + head * WIDTH
    store_rows(
        grad_q_ptr, TOKENS * 3 * WHOLE, 3 * WHOLE, sample, row, inside, grad_q, WIDTH, PADDED
    )


@jit
def _backward_keys_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, grad_ptr, lse_ptr, delta_ptr,
    grad_qkv_ptr, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    ROWS: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """grad_k and grad_v of one block of keys; on the grid of forward.

    grad_v = p^T grad, grad_k = scale (p (grad v^T - delta))^T q, with scores [keys, queries],
    which as left operands stay in registers. Shapes: see `_backward_queries_kernel`.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    BLOCKS: tl.constexpr = (TOKENS + ROWS - 1) // ROWS
    sequence, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    sample, head = sequence // HEADS, sequence % HEADS
    q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
    k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
    WHOLE: tl.constexpr = HEADS * WIDTH
    scale_log2 = scale * 1.4426950408889634
    grad_ptr += head * WIDTH

    key = block * ROWS + tl.arange(0, ROWS)
    there = key < TOKENS
    k = load_rows(k_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
    v = load_rows(v_ptr, stride_b, stride_n, sample, key, there, WIDTH, PADDED, OPERAND)
    grad_k = tl.zeros((ROWS, PADDED), tl.float32)
    grad_v = tl.zeros((ROWS, PADDED), tl.float32)
    for start in range(0, TOKENS, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < TOKENS
        q = load_rows(q_ptr, stride_b, stride_n, sample, row, inside, WIDTH, PADDED, OPERAND)
        grad = load_rows(
            grad_ptr, TOKENS * WHOLE, WHOLE, sample, row, inside, WIDTH, PADDED, OPERAND
        )
        saved = sequence.to(tl.int64) * (BLOCKS * ROWS) + row
        lse, delta = tl.load(lse_ptr + saved), tl.load(delta_ptr + saved)
        score = tl.dot(k, tl.trans(q), input_precision="ieee")
        score = tl.where(there[:, None], score, float("-inf"))  # else rows beyond N overflow
        p = tl.exp2(score * scale_log2 - lse[None, :])
        grad_v = tl.dot(p.to(OPERAND), grad, grad_v, input_precision="ieee")
        grad_p = tl.dot(v, tl.trans(grad), input_precision="ieee")
        grad_score = (p * (grad_p - delta[None, :])).to(OPERAND)
        grad_k = tl.dot(grad_score, q, grad_k, input_precision="ieee")
    grad_k *= scale
    grad_k_ptr = grad_qkv_ptr + WHOLE + head * WIDTH
    store_rows(grad_k_ptr, TOKENS * 3 * WHOLE, 3 * WHOLE, sample, key, there, grad_k, WIDTH, PADDED)
    store_rows(
        grad_k_ptr + WHOLE, TOKENS * 3 * WHOLE, 3 * WHOLE, sample, key, there, grad_v,
        WIDTH, PADDED,
    )  # fmt: skip


class Blocks(NamedTuple):
    """Queries, and keys, of a block; warps of a program and stages of its loop."""

    rows: int
    num_warps: int
    num_stages: int


def settings(width: int, dtype: torch.dtype) -> Blocks:
    """The blocks for heads of a width: no registers are spilled on sm_80, sm_90 and sm_100."""
    rows = 16 if dtype == torch.float32 else 64
    return Blocks(rows, num_warps=4, num_stages=2) if width <= 64 else Blocks(rows, 8, 1)


def lse_shape(qkv: Tensor) -> tuple[int, int, int]:
    """The shape of lse: [B, h, N up to a multiple of ROWS]."""
    rows = settings(qkv.shape[4], qkv.dtype).rows
    return qkv.shape[0], qkv.shape[3], (qkv.shape[1] + rows - 1) // rows * rows


def forward(qkv: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse) of `_forward_kernel`."""
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * width)
    lse = qkv.new_empty(lse_shape(qkv), dtype=torch.float32)
    grid, common = _arguments(qkv, lse)
    launch(_forward_kernel, grid, out_ptr=out, **common)
    return out, lse


def backward(grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """The gradient of qkv, contiguous; grad: that of out, contiguous."""
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grid, common = _arguments(qkv, lse)
    common |= {"grad_ptr": grad, "delta_ptr": torch.empty_like(lse), "grad_qkv_ptr": grad_qkv}
    launch(_backward_queries_kernel, grid, out_ptr=out, **common)
    launch(_backward_keys_kernel, grid, **common)
    return grad_qkv


def _arguments(qkv: Tensor, lse: Tensor) -> tuple[tuple[int], dict[str, object]]:
    """The grid of every kernel and the arguments that they share."""
    _, tokens, _, heads, width = qkv.shape
    blocks = settings(width, qkv.dtype)
    return (lse.numel() // blocks.rows,), dict(
        **strided(qkv),
        lse_ptr=lse,
        scale=width**-0.5,
        TOKENS=tokens,
        HEADS=heads,
        WIDTH=width,
        PADDED=pad(width),
        ROWS=blocks.rows,
        OPERAND=operand(qkv.dtype),
        num_warps=blocks.num_warps,
        num_stages=blocks.num_stages,
    )
