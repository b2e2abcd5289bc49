"""Expansion of a decoder's rows to all tokens: masked patches share one row per position.

B = batch, L = patches of an image, K = visible patches, C = class tokens, N = C + L tokens,
W = width, R = B * (C + K) + L rows.

Before its first attention, a decoder's output for a mask token depends only on the position. So the
first layers need only R rows: class tokens and visible patches of each sample in turn, then a row
for the mask token at each position. That is a quarter of the decoder's input, and `spread_rows`
expands it to all tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.assemble_tokens import DTYPES, row_tiles, rows_by_rank, tiles_per_program
from fastimae.kernels.checks import check_spread, class_tokens
from fastimae.kernels.random_masking import Mask


@jit
def _forward_kernel(
    rows_ptr,
    shared_ptr,
    ids_restore_ptr,
    out_ptr,
    batch,
    keep,
    PATCHES: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[b, n] = rows[b, FIRST + rank] if visible else shared[n - FIRST].

    FIRST: row of the first patch. rows [batch, FIRST + keep, WIDTH], shared [PATCHES, WIDTH],
    ids_restore [batch, PATCHES], out [batch, FIRST + PATCHES, WIDTH], all contiguous. Grid: (row n
    of ROWS samples, columns); all samples of a program share one position, and so the row of its
    mask token.
    """
    program = tl.program_id(0)
    row = program % (PATCHES + FIRST)
    sample = (program // (PATCHES + FIRST)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, wide = sample < batch, column < WIDTH
    ranked = sample < tl.where(row >= FIRST, batch, 0)  # class tokens have no rank, but their row
    patch = row - FIRST
    rank = tl.load(ids_restore_ptr + sample * PATCHES + patch, mask=ranked, other=patch)
    visible = (rank < keep)[:, None]
    own = tl.load(
        rows_ptr + (sample * (keep + FIRST) + FIRST + rank)[:, None] * WIDTH + column[None, :],
        mask=inside[:, None] & visible & wide[None, :],
        other=0.0,
    )
    shared = tl.load(shared_ptr + patch * WIDTH + column, mask=wide & (patch >= 0), other=0.0)
    tl.store(
        out_ptr + (sample * (PATCHES + FIRST) + row)[:, None] * WIDTH + column[None, :],
        tl.where(visible, own, shared[None, :]),
        mask=inside[:, None] & wide[None, :],
    )


@jit
def _backward_kernel(
    grad_ptr,
    ids_restore_ptr,
    grad_rows_ptr,
    partial_ptr,
    batch,
    keep,
    PATCHES: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_rows[b, FIRST + rank] = grad[b, n] where visible; partial[group, n - FIRST] = sum of
    masked rows over a group of TILES * ROWS samples.

    grad [batch, FIRST + PATCHES, WIDTH], grad_rows [batch, FIRST + keep, WIDTH], partial fp32
    [groups, PATCHES, WIDTH], contiguous. Grid: (row n of a group, columns).
    """
    program = tl.program_id(0)
    row, group = program % (PATCHES + FIRST), (program // (PATCHES + FIRST)).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wide, patch = column < WIDTH, row - FIRST
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in range(TILES):
        sample = (group * TILES + tile) * ROWS + tl.arange(0, ROWS)
        ranked = sample < tl.where(row >= FIRST, batch, 0)
        rank = tl.load(ids_restore_ptr + sample * PATCHES + patch, mask=ranked, other=patch)
        visible, own = (rank < keep)[:, None], sample * (keep + FIRST) + FIRST + rank
        mask = (sample < batch)[:, None] & wide[None, :]
        grad = tl.load(
            grad_ptr + (sample * (PATCHES + FIRST) + row)[:, None] * WIDTH + column[None, :],
            mask=mask,
            other=0.0,
        )
        tl.store(
            grad_rows_ptr + own[:, None] * WIDTH + column[None, :],
            grad,
            mask=mask & visible,
        )
        total += tl.where(visible, 0.0, grad.to(tl.float32))
    tl.store(
        partial_ptr + (group * PATCHES + patch) * WIDTH + column,
        tl.sum(total, axis=0),
        mask=wide & (patch >= 0),
    )


@torch.library.custom_op("fastimae::spread_rows", mutates_args=())
def _spread_rows(rows: Tensor, ids_restore: Tensor, keep: int, on_triton: bool) -> Tensor:
    if not on_triton:
        return _forward_torch(rows, ids_restore, keep)
    out = _empty_out(rows, ids_restore, keep, on_triton)
    batch, count, width = out.shape
    patches = ids_restore.shape[1]
    if not batch:
        return out
    settings, rows = row_tiles(width), rows.contiguous()
    groups, columns = triton.cdiv(batch, settings["ROWS"]), triton.cdiv(width, settings["BLOCK"])
    launch(
        _forward_kernel,
        (count * groups, columns),
        rows_ptr=rows,
        shared_ptr=rows[-patches:],
        ids_restore_ptr=ids_restore.contiguous(),
        out_ptr=out,
        batch=batch,
        keep=keep,
        PATCHES=patches,
        FIRST=count - patches,
        WIDTH=width,
        **settings,
    )
    return out


@_spread_rows.register_fake
def _empty_out(rows: Tensor, ids_restore: Tensor, keep: int, on_triton: bool) -> Tensor:
    batch, patches = ids_restore.shape
    first = class_tokens(len(rows), batch, keep, patches)
    return rows.new_empty(batch, first + patches, rows.shape[1])


@torch.library.custom_op("fastimae::spread_rows_backward", mutates_args=())
def _spread_rows_backward(grad: Tensor, ids_restore: Tensor, keep: int, on_triton: bool) -> Tensor:
    """Compute the gradient of rows, [R, W] in the dtype of grad; sums over samples are in fp32."""
    if not on_triton:
        return _backward_torch(grad, ids_restore, keep)
    grad_rows = _empty_grad(grad, ids_restore, keep, on_triton)
    batch, count, width = grad.shape
    patches = ids_restore.shape[1]
    if not batch:
        return grad_rows.zero_()
    settings = row_tiles(width)
    columns, tiles = triton.cdiv(width, settings["BLOCK"]), triton.cdiv(batch, settings["ROWS"])
    each = tiles_per_program(tiles * count * columns)
    groups = triton.cdiv(tiles, each)
    partial = grad.new_empty(groups, patches, width, dtype=torch.float32)
    launch(
        _backward_kernel,
        (count * groups, columns),
        grad_ptr=grad.contiguous(),
        ids_restore_ptr=ids_restore.contiguous(),
        grad_rows_ptr=grad_rows,
        partial_ptr=partial,
        batch=batch,
        keep=keep,
        PATCHES=patches,
        FIRST=count - patches,
        WIDTH=width,
        TILES=each,
        **settings,
    )
    grad_rows[-patches:] = partial.sum(0)
    return grad_rows


@_spread_rows_backward.register_fake
def _empty_grad(grad: Tensor, ids_restore: Tensor, keep: int, on_triton: bool) -> Tensor:
    (batch, count, width), patches = grad.shape, ids_restore.shape[1]
    return grad.new_empty(batch * (count - patches + keep) + patches, width)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ids_restore, ctx.keep, ctx.on_triton = inputs
    ctx.save_for_backward(ids_restore)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids_restore,) = ctx.saved_tensors
    return _spread_rows_backward(grad, ids_restore, ctx.keep, ctx.on_triton), None, None, None


_spread_rows.register_autograd(_gradient, setup_context=_save)


def _forward_torch(rows: Tensor, ids_restore: Tensor, keep: int) -> Tensor:
    batch, patches = ids_restore.shape
    first, device = class_tokens(len(rows), batch, keep, patches), rows.device
    own = first + keep
    start_B1 = torch.arange(batch, device=device)[:, None] * own
    class_BC = start_B1 + torch.arange(first, device=device)
    shared_L = torch.arange(batch * own, batch * own + patches, device=device)
    source_BL = torch.where(ids_restore < keep, start_B1 + first + ids_restore, shared_L)
    source_BN = torch.cat([class_BC, source_BL], dim=1)
    return rows.index_select(0, source_BN.flatten()).view(batch, first + patches, rows.shape[1])


def _backward_torch(grad: Tensor, ids_restore: Tensor, keep: int) -> Tensor:
    count = grad.shape[1]
    flat, ranked_BN = grad.flatten(0, 1), rows_by_rank(ids_restore, count)
    own = count - ids_restore.shape[1] + keep
    visible = flat.index_select(0, ranked_BN[:, :own].flatten())
    masked = ranked_BN[:, own:].flatten()
    by_patch = masked[(masked % count).argsort(stable=True)]
    counts_L = (ids_restore >= keep).sum(0)
    # embedding_bag copies no row, and adds up in fp32.
    sums_LW = F.embedding_bag(by_patch, flat, counts_L.cumsum(0) - counts_L, mode="sum")
    return torch.cat([visible, sums_LW])


def spread_rows(rows: Tensor, mask: Mask, *, impl: Impl = "auto") -> Tensor:
    """Expand rows of visible patches, and of the mask token at each position, to all tokens.

    rows: [B * (C + K) + L, W], any float dtype: C >= 1 class tokens and the visible patches of each
    sample in turn, ordered as in `mask.ids_keep`, then L rows for patches that are masked. impl:
    "triton", "torch", or "auto" for the faster available.

    Returns [B, C + L, W] in the dtype of rows; an empty batch, which does not show C, has 1. The
    gradient of rows is summed over the samples in fp32 or better, and is the same in every run.
    Raises ValueError if shapes do not fit together, and if impl="triton" cannot run.
    """
    check_spread(rows, mask.ids_keep, mask.ids_restore)
    obstacle = "" if rows.dtype in DTYPES else f"its rows are {rows.dtype}"
    on_triton = use_triton("spread_rows", impl, rows, mask.ids_restore, obstacle=obstacle)
    return _spread_rows(rows, mask.ids_restore, mask.ids_keep.shape[1], on_triton)
