"""Attention of short sequences: all keys of a head in one tile, plain softmax.

B = batch, N = tokens, h = heads, d = head width, D = d padded to a power of two.

A sequence has a slot of a power of two of rows. Slots of fewer than 64 rows share a tile of 64,
the fewest that Hopper's tensor cores multiply at full rate; a slot starts at a multiple of its
size, so that a sample's sums do not depend on its place. A longer sequence has a tile of its
own, which its queries pass in blocks. Order: kernels, launchers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._attention_choice import Pass, Tile
from fastimae.kernels._launch import interpreted, jit, launch, tl


@jit
def load_rows(
    head_ptr, stride_b, stride_n, sample, token, inside,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """Rows (sample, token) of one head -> [rows, D] in OPERAND, 0 where there is none."""
    column = tl.arange(0, PADDED)
    row_ptr = head_ptr + sample.to(tl.int64) * stride_b + token.to(tl.int64) * stride_n
    mask = inside[:, None] & (column < WIDTH)[None, :]
    return tl.load(row_ptr[:, None] + column[None, :], mask=mask, other=0.0).to(OPERAND)


@jit
def store_rows(
    head_ptr, stride_b, stride_n, sample, token, inside, x,
    WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """The inverse of `load_rows`, in the dtype of head_ptr."""
    column = tl.arange(0, PADDED)
    row_ptr = head_ptr + sample.to(tl.int64) * stride_b + token.to(tl.int64) * stride_n
    mask = inside[:, None] & (column < WIDTH)[None, :]
    tl.store(row_ptr[:, None] + column[None, :], x.to(head_ptr.dtype.element_ty), mask=mask)


@jit
def _rows_of_tile(
    tile, row, batch, TOKENS: tl.constexpr, SLOT: tl.constexpr, KEYS: tl.constexpr
):  # fmt: skip
    """Sample and token that a row of the tile holds, and whether there is such a one."""
    sample, token = tile * (KEYS // SLOT) + row // SLOT, row % SLOT
    return sample, token, (token < TOKENS) & (sample < batch)


@jit
def _forward_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, out_ptr, lse_ptr, batch, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLOT: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, OPERAND: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """out = softmax(scale q k^T) v of one head of the KEYS / SLOT samples in a tile.

    qkv: [B, N, 3, h, d], strides in units of 8 elements, so that the compiler knows that rows
    are aligned. out: [B, N, h * d]. lse: fp32 [tiles, h, KEYS], saved for backward: log2 of the
    sum of exp(scale q k^T), for each row of the tile, whatever QUERIES is. Grid: tiles * h / GROUP,
    heads first, since they are neighbours in memory; a program does GROUP heads, one after another.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    tile, first = tl.program_id(0) // (HEADS // GROUP), tl.program_id(0) % (HEADS // GROUP) * GROUP
    WHOLE: tl.constexpr = HEADS * WIDTH
    scale_log2 = scale * 1.4426950408889634

    key = tl.arange(0, KEYS)
    key_sample, key_token, there = _rows_of_tile(tile, key, batch, TOKENS, SLOT, KEYS)
    for member in tl.range(0, GROUP, disable_licm=True):
        head = first + member
        q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
        k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
        head_out_ptr = out_ptr + head * WIDTH
        head_lse_ptr = lse_ptr + (tile * HEADS + head).to(tl.int64) * KEYS
        k = load_rows(
            k_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
        )
        v = load_rows(
            v_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
        )
        # Without LICM, which would move k and v to registers before the loop: they do not fit.
        for start in tl.range(0, KEYS if SLOT < KEYS else TOKENS, QUERIES, disable_licm=True):
            row = start + tl.arange(0, QUERIES)
            sample, token, inside = _rows_of_tile(tile, row, batch, TOKENS, SLOT, KEYS)
            q = load_rows(q_ptr, stride_b, stride_n, sample, token, inside, WIDTH, PADDED, OPERAND)
            same = (row // SLOT)[:, None] == (key // SLOT)[None, :]
            mask = same & (key % SLOT < TOKENS)[None, :]
            if QUERIES == KEYS:
                score = tl.dot(q, tl.trans(k), input_precision="ieee")
                score = tl.where(mask, score, float("-inf")) if TOKENS < KEYS else score
                top = tl.max(score, 1) * scale_log2
                p = tl.exp2(score * scale_log2 - top[:, None])
                total = tl.sum(p, 1)
                out = tl.dot(p.to(OPERAND), v, input_precision="ieee") / total[:, None]
            else:  # keys divided among warps, so that none of them holds all
                score = tl.dot(k, tl.trans(q), input_precision="ieee")
                score = tl.where(tl.trans(mask), score, float("-inf")) if TOKENS < KEYS else score
                top = tl.max(score, 0) * scale_log2
                p = tl.exp2(score * scale_log2 - top[None, :])
                total = tl.sum(p, 0)
                p = (p * (1.0 / total)[None, :]).to(OPERAND)
                out = tl.dot(tl.trans(p), v, input_precision="ieee")
            tl.store(head_lse_ptr + row, top + tl.log2(total))
            store_rows(
                head_out_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, out, WIDTH, PADDED
            )
        END: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES * QUERIES
        if SLOT == KEYS and END < KEYS:  # longer blocks of backward read these: p = 0
            tl.store(head_lse_ptr + key, tl.full((KEYS,), float("inf"), tl.float32), key >= END)


@jit
def _backward_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, grad_ptr, lse_ptr, grad_qkv_ptr,
    batch, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLOT: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, OPERAND: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """The gradient of `_forward_kernel` in one pass over the queries, on the same grid.

    p = exp(scale q k^T) / sum, grad_v = p^T grad, grad_p = grad v^T,
    grad_score = p (grad_p - rowsum(p grad_p)), grad_q = scale grad_score k,
    grad_k = scale grad_score^T q. grad: [B, N, h * d]. grad_qkv: [B, N, 3, h, d], both
    contiguous. Scores are [KEYS, QUERIES]: as left operands of the products that are summed
    over queries they stay in registers.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    tile, first = tl.program_id(0) // (HEADS // GROUP), tl.program_id(0) % (HEADS // GROUP) * GROUP
    WHOLE: tl.constexpr = HEADS * WIDTH
    out_n, out_b = 3 * WHOLE, TOKENS * 3 * WHOLE
    scale_log2 = scale * 1.4426950408889634

    key = tl.arange(0, KEYS)
    key_sample, key_token, there = _rows_of_tile(tile, key, batch, TOKENS, SLOT, KEYS)
    for member in tl.range(0, GROUP, disable_licm=True):
        head = first + member
        q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
        k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
        head_grad_ptr = grad_ptr + head * WIDTH
        head_lse_ptr = lse_ptr + (tile * HEADS + head).to(tl.int64) * KEYS
        grad_q_ptr = grad_qkv_ptr + head * WIDTH
        grad_k_ptr, grad_v_ptr = grad_q_ptr + WHOLE, grad_q_ptr + 2 * WHOLE
        k = load_rows(
            k_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
        )
        v = load_rows(
            v_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
        )
        grad_k = tl.zeros((KEYS, PADDED), tl.float32)
        grad_v = tl.zeros((KEYS, PADDED), tl.float32)
        for start in tl.range(0, KEYS if SLOT < KEYS else TOKENS, QUERIES, disable_licm=True):
            row = start + tl.arange(0, QUERIES)
            sample, token, inside = _rows_of_tile(tile, row, batch, TOKENS, SLOT, KEYS)
            q = load_rows(q_ptr, stride_b, stride_n, sample, token, inside, WIDTH, PADDED, OPERAND)
            grad = load_rows(
                head_grad_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, WIDTH, PADDED, OPERAND
            )
            score = tl.dot(k, tl.trans(q), input_precision="ieee")
            if TOKENS < KEYS:
                same = (row // SLOT)[None, :] == (key // SLOT)[:, None]
                score = tl.where(same & (key % SLOT < TOKENS)[:, None], score, float("-inf"))
            p = tl.exp2(score * scale_log2 - tl.load(head_lse_ptr + row)[None, :])
            grad_v = tl.dot(p.to(OPERAND), grad, grad_v, input_precision="ieee")
            grad_p = tl.dot(v, tl.trans(grad), input_precision="ieee")
            delta = tl.sum(p * grad_p, 0)
            grad_score = (p * (grad_p - delta[None, :])).to(OPERAND)
            grad_k = tl.dot(grad_score, q, grad_k, input_precision="ieee")
            grad_q = tl.dot(tl.trans(grad_score), k, input_precision="ieee") * scale
            store_rows(grad_q_ptr, out_b, out_n, sample, token, inside, grad_q, WIDTH, PADDED)
        grad_k *= scale
        store_rows(grad_k_ptr, out_b, out_n, key_sample, key_token, there, grad_k, WIDTH, PADDED)
        store_rows(grad_v_ptr, out_b, out_n, key_sample, key_token, there, grad_v, WIDTH, PADDED)


def group(heads: int, tile: Tile) -> int:
    """Heads of a program, one after another: two of 64 tokens or fewer, which are little work."""
    return 2 if tile.slot <= 64 and heads % 2 == 0 else 1


def pad(width: int) -> int:
    """D: the power of two that a head's width takes in a tile."""
    return next(power for power in (16, 32, 64, 128) if width <= power)


def lse_shape(qkv: Tensor, tile: Tile) -> tuple[int, int, int]:
    """The shape of lse: [tiles, h, KEYS]."""
    samples = tile.keys // tile.slot
    return (qkv.shape[0] + samples - 1) // samples, qkv.shape[3], tile.keys


def forward(qkv: Tensor, tile: Tile, how: Pass) -> tuple[Tensor, Tensor]:
    """(out, lse) of `_forward_kernel`."""
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * width)
    lse = qkv.new_empty(lse_shape(qkv, tile), dtype=torch.float32)
    launch(
        _forward_kernel,
        (lse.shape[0] * heads // group(heads, tile),),
        **strided(qkv),
        out_ptr=out,
        lse_ptr=lse,
        **_common(qkv, tile, how),
    )
    return out, lse


def backward(grad: Tensor, qkv: Tensor, lse: Tensor, tile: Tile, how: Pass) -> Tensor:
    """The gradient of qkv, contiguous; grad: that of out, contiguous."""
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    launch(
        _backward_kernel,
        (lse.shape[0] * qkv.shape[3] // group(qkv.shape[3], tile),),
        **strided(qkv),
        grad_ptr=grad,
        lse_ptr=lse,
        grad_qkv_ptr=grad_qkv,
        **_common(qkv, tile, how),
    )
    return grad_qkv


def strided(qkv: Tensor) -> dict[str, Tensor | int]:
    """Arguments for qkv and its strides in units of 8 elements; a copy if they are not such."""
    if qkv.stride(-1) != 1 or any(stride % 8 for stride in qkv.stride()[:4]):
        qkv = qkv.contiguous()
    names = ("stride_b", "stride_n", "stride_part", "stride_h")
    strides = {name: qkv.stride(axis) // 8 for axis, name in enumerate(names)}
    return {"qkv_ptr": qkv, **strides}


def operand(dtype: torch.dtype) -> tl.dtype:
    """What tl.dot multiplies: the dtype, or fp32 in the interpreter, which is wrong for bf16."""
    names = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
    return getattr(tl, "float32" if interpreted() else names[dtype])


def _common(qkv: Tensor, tile: Tile, how: Pass) -> dict[str, object]:
    batch, tokens, _, heads, width = qkv.shape
    return {
        "batch": batch,
        "scale": width**-0.5,
        "TOKENS": tokens,
        "HEADS": heads,
        "WIDTH": width,
        "PADDED": pad(width),
        "SLOT": tile.slot,
        "KEYS": tile.keys,
        "QUERIES": how.queries,
        "OPERAND": operand(qkv.dtype),
        "GROUP": group(heads, tile),
        "num_warps": how.warps,
        "num_stages": how.stages,
    }
