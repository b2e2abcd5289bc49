"""Attention of short sequences: all keys of a head in one tile, plain softmax.

B = batch, N = tokens, h = heads, d = head width, D = d padded to a power of two.

A sequence has a slot whose rows are a power of two. Slots of fewer than 64 rows share a tile of 64,
the fewest rows that Hopper's tensor cores multiply at full rate; a slot starts at a multiple of its
size, so that a sample's sums do not depend on its position in the batch. A longer sequence has a
tile to itself, and its queries pass over it in blocks. Order: kernels, launchers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._attention_choice import AttentionTile, Pass
from fastimae.kernels._attention_rows import load_rows, rows_of_tile, store_rows
from fastimae.kernels._launch import interpreted, jit, launch, tl, triton_dtype


@jit
def _forward_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, out_ptr, lse_ptr, batch, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLOT: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, OPERAND: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """out = softmax(scale q k^T) v for one head of the KEYS / SLOT samples in a tile.

    qkv: [B, N, 3, h, d], strides in units of 8 elements, so that the compiler knows that rows
    are aligned. out: [B, N, h * d]. lse: fp32 [tiles, h, KEYS], saved for backward: log2 of the
    sum of exp(scale q k^T) for each row of the tile, independent of QUERIES.
    Grid: tiles * h / GROUP, heads first, since they are neighbours in memory; a program handles
    GROUP heads, one after another.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    tile, first = tl.program_id(0) // (HEADS // GROUP), tl.program_id(0) % (HEADS // GROUP) * GROUP
    WHOLE: tl.constexpr = HEADS * WIDTH
    scale_log2 = scale * 1.4426950408889634

    key = tl.arange(0, KEYS)
    key_sample, key_token, there = rows_of_tile(tile, key, batch, TOKENS, SLOT, KEYS)
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
        # LICM is off: it would move k and v into registers before the loop, where they do not fit.
        for start in tl.range(0, KEYS if SLOT < KEYS else TOKENS, QUERIES, disable_licm=True):
            row = start + tl.arange(0, QUERIES)
            sample, token, inside = rows_of_tile(tile, row, batch, TOKENS, SLOT, KEYS)
            q = load_rows(q_ptr, stride_b, stride_n, sample, token, inside, WIDTH, PADDED, OPERAND)
            same = (row // SLOT)[:, None] == (key // SLOT)[None, :]
            mask = same & (key % SLOT < TOKENS)[None, :]
            score = tl.dot(q, tl.trans(k), input_precision="ieee")
            top = tl.max(tl.where(mask, score, float("-inf")), 1) * scale_log2
            # Masked after exp2: columns beyond the last token take part in no sum.
            p = tl.where(mask, tl.exp2(score * scale_log2 - top[:, None]), 0.0)
            total = tl.sum(p, 1)
            out = tl.dot(p.to(OPERAND), v, input_precision="ieee") / total[:, None]
            tl.store(head_lse_ptr + row, top + tl.log2(total))
            store_rows(
                head_out_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, out, WIDTH, PADDED
            )
        END: tl.constexpr = (TOKENS + QUERIES - 1) // QUERIES * QUERIES
        if SLOT == KEYS and END < KEYS:  # backward's longer blocks read these rows: p = 0
            tl.store(head_lse_ptr + key, tl.full((KEYS,), float("inf"), tl.float32), key >= END)


@jit
def _backward_kernel(
    qkv_ptr, stride_b, stride_n, stride_part, stride_h, out_ptr, grad_ptr, lse_ptr, grad_qkv_ptr,
    sums_ptr, batch, scale,
    TOKENS: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
    SLOT: tl.constexpr, KEYS: tl.constexpr, QUERIES: tl.constexpr, OPERAND: tl.constexpr,
    GROUP: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of `_forward_kernel` on the same grid: one loop over the queries for
    each of PARTS equal parts of the keys.

    p = exp(scale q k^T) / sum, grad_v = p^T grad, grad_p = grad v^T, delta = rowsum(p grad_p) =
    rowsum(out grad), grad_score = p (grad_p - delta), grad_q = scale grad_score k,
    grad_k = scale grad_score^T q. grad, out: [B, N, h * d]. grad_qkv: [B, N, 3, h, d]. All are
    contiguous. grad_q is rounded after each part. sums: fp32 [tiles, 2, h, d], grad_q and grad_v
    summed over the rows of each tile, or None. Rows of p sum to 1, so grad_v has the sum of grad;
    the sum of grad_k is 0. Scores are [keys, QUERIES]: as left operands of the products that are
    summed over queries, they stay in registers.
    """
    stride_b, stride_n = stride_b * 8, stride_n * 8
    stride_part, stride_h = stride_part * 8, stride_h * 8
    tile, first = tl.program_id(0) // (HEADS // GROUP), tl.program_id(0) % (HEADS // GROUP) * GROUP
    WHOLE: tl.constexpr = HEADS * WIDTH
    PART: tl.constexpr = KEYS // PARTS
    out_n, out_b = 3 * WHOLE, TOKENS * 3 * WHOLE
    scale_log2 = scale * 1.4426950408889634

    for member in tl.range(0, GROUP, disable_licm=True):
        head = first + member
        q_ptr = qkv_ptr + head.to(tl.int64) * stride_h
        k_ptr, v_ptr = q_ptr + stride_part, q_ptr + 2 * stride_part
        head_out_ptr, head_grad_ptr = out_ptr + head * WIDTH, grad_ptr + head * WIDTH
        head_lse_ptr = lse_ptr + (tile * HEADS + head).to(tl.int64) * KEYS
        grad_q_ptr = grad_qkv_ptr + head * WIDTH
        grad_k_ptr, grad_v_ptr = grad_q_ptr + WHOLE, grad_q_ptr + 2 * WHOLE
        for part in tl.static_range(0, KEYS, PART):
            if part:
                tl.debug_barrier()  # other threads may have written the grad_q that is read below
            key = part + tl.arange(0, PART)
            key_sample, key_token, there = rows_of_tile(tile, key, batch, TOKENS, SLOT, KEYS)
            k = load_rows(
                k_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
            )
            v = load_rows(
                v_ptr, stride_b, stride_n, key_sample, key_token, there, WIDTH, PADDED, OPERAND
            )
            grad_k = tl.zeros((PART, PADDED), tl.float32)
            grad_v = tl.zeros((PART, PADDED), tl.float32)
            for start in tl.range(0, KEYS if SLOT < KEYS else TOKENS, QUERIES, disable_licm=True):
                row = start + tl.arange(0, QUERIES)
                sample, token, inside = rows_of_tile(tile, row, batch, TOKENS, SLOT, KEYS)
                q = load_rows(
                    q_ptr, stride_b, stride_n, sample, token, inside, WIDTH, PADDED, OPERAND
                )
                grad = load_rows(
                    head_grad_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, WIDTH, PADDED,
                    OPERAND,
                )  # fmt: skip
                score = tl.dot(k, tl.trans(q), input_precision="ieee")
                if SLOT < KEYS or part + PART > TOKENS:
                    same = (row // SLOT)[None, :] == (key // SLOT)[:, None]
                    score = tl.where(same & (key % SLOT < TOKENS)[:, None], score, float("-inf"))
                p = tl.exp2(score * scale_log2 - tl.load(head_lse_ptr + row)[None, :])
                grad_v = tl.dot(p.to(OPERAND), grad, grad_v, input_precision="ieee")
                grad_p = tl.dot(v, tl.trans(grad), input_precision="ieee")
                if PARTS == 1:
                    delta = tl.sum(p * grad_p, 0)
                else:
                    out = load_rows(
                        head_out_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, WIDTH, PADDED,
                        tl.float32,
                    )  # fmt: skip
                    delta = tl.sum(out * grad.to(tl.float32), 1)
                grad_score = (p * (grad_p - delta[None, :])).to(OPERAND)
                grad_k = tl.dot(grad_score, q, grad_k, input_precision="ieee")
                grad_q = tl.dot(tl.trans(grad_score), k, input_precision="ieee") * scale
                if part:
                    grad_q += load_rows(
                        grad_q_ptr, out_b, out_n, sample, token, inside, WIDTH, PADDED, tl.float32
                    )
                store_rows(grad_q_ptr, out_b, out_n, sample, token, inside, grad_q, WIDTH, PADDED)
            grad_k *= scale
            store_rows(
                grad_k_ptr, out_b, out_n, key_sample, key_token, there, grad_k, WIDTH, PADDED
            )
            store_rows(
                grad_v_ptr, out_b, out_n, key_sample, key_token, there, grad_v, WIDTH, PADDED
            )
        if sums_ptr is not None:
            tl.debug_barrier()
            row = tl.arange(0, KEYS)
            sample, token, inside = rows_of_tile(tile, row, batch, TOKENS, SLOT, KEYS)
            grad_q = load_rows(
                grad_q_ptr, out_b, out_n, sample, token, inside, WIDTH, PADDED, tl.float32
            )
            grad = load_rows(
                head_grad_ptr, TOKENS * WHOLE, WHOLE, sample, token, inside, WIDTH, PADDED,
                tl.float32,
            )  # fmt: skip
            column = tl.arange(0, PADDED)
            head_sums_ptr = sums_ptr + tile.to(tl.int64) * 2 * WHOLE + head * WIDTH + column
            tl.store(head_sums_ptr, tl.sum(grad_q, 0), column < WIDTH)
            tl.store(head_sums_ptr + WHOLE, tl.sum(grad, 0), column < WIDTH)


def heads_per_program(heads: int, tile: AttentionTile) -> int:
    """Return how many heads a program handles: two for up to 64 tokens, which are little work."""
    return 2 if tile.slot <= 64 and heads % 2 == 0 else 1


def padded_width(width: int) -> int:
    """Return D, the power of two that a head's width takes in a tile."""
    return next(power for power in (16, 32, 64, 128) if width <= power)


def lse_shape(qkv: Tensor, tile: AttentionTile) -> tuple[int, int, int]:
    """Return the shape of lse: [tiles, h, KEYS]."""
    samples = tile.keys // tile.slot
    return (qkv.shape[0] + samples - 1) // samples, qkv.shape[3], tile.keys


def forward(qkv: Tensor, tile: AttentionTile, settings: Pass) -> tuple[Tensor, Tensor]:
    """Return (out, lse) of `_forward_kernel`."""
    batch, tokens, _, heads, width = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * width)
    lse = qkv.new_empty(lse_shape(qkv, tile), dtype=torch.float32)
    launch(
        _forward_kernel,
        (lse.shape[0] * heads // heads_per_program(heads, tile),),
        **qkv_and_strides(qkv),
        out_ptr=out,
        lse_ptr=lse,
        **_common(qkv, tile, settings),
    )
    return out, lse


def empty_gradients(qkv: Tensor, lse: Tensor, summed: bool) -> tuple[Tensor, Tensor]:
    """Return the tensors that `backward` fills."""
    sums = qkv.new_empty(lse.shape[0] if summed else 0, 2, *qkv.shape[3:], dtype=torch.float32)
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), sums


def backward(
    grad: Tensor,
    qkv: Tensor,
    out: Tensor,
    lse: Tensor,
    tile: AttentionTile,
    settings: Pass,
    *,
    summed: bool,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of qkv, contiguous, and the sums of q's and v's over each tile's rows.

    grad: gradient of out, both contiguous. The sums are fp32 [tiles, 2, h, d], or [0, 2, h, d]
    unless `summed`.
    """
    grad_qkv, sums = empty_gradients(qkv, lse, summed)
    launch(
        _backward_kernel,
        (lse.shape[0] * qkv.shape[3] // heads_per_program(qkv.shape[3], tile),),
        **qkv_and_strides(qkv),
        out_ptr=out,
        grad_ptr=grad,
        lse_ptr=lse,
        grad_qkv_ptr=grad_qkv,
        sums_ptr=sums if summed else None,
        PARTS=settings.parts,
        **_common(qkv, tile, settings),
    )
    return grad_qkv, sums


def qkv_and_strides(qkv: Tensor) -> dict[str, Tensor | int]:
    """Return the kernel arguments for qkv and its strides in units of 8 elements.

    qkv is copied where its strides are not multiples of 8.
    """
    if qkv.stride(-1) != 1 or any(stride % 8 for stride in qkv.stride()[:4]):
        qkv = qkv.contiguous()
    names = ("stride_b", "stride_n", "stride_part", "stride_h")
    strides = {name: qkv.stride(axis) // 8 for axis, name in enumerate(names)}
    return {"qkv_ptr": qkv, **strides}


def operand_dtype(dtype: torch.dtype) -> tl.dtype:
    """Return the dtype that tl.dot multiplies: fp32 in the interpreter, which gets bf16 wrong."""
    return tl.float32 if interpreted() else triton_dtype(dtype)


def _common(qkv: Tensor, tile: AttentionTile, settings: Pass) -> dict[str, object]:
    batch, tokens, _, heads, width = qkv.shape
    return {
        "batch": batch,
        "scale": width**-0.5,
        "TOKENS": tokens,
        "HEADS": heads,
        "WIDTH": width,
        "PADDED": padded_width(width),
        "SLOT": tile.slot,
        "KEYS": tile.keys,
        "QUERIES": settings.queries,
        "OPERAND": operand_dtype(qkv.dtype),
        "GROUP": heads_per_program(heads, tile),
        "num_warps": settings.warps,
        "num_stages": settings.stages,
    }
