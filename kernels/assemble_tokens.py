"""The decoder's input: visible tokens in their positions, mask tokens elsewhere, positions added.

B = batch, L = patches of an image, K = visible patches, C = class tokens, E = token width. The
first C rows of a sample are its class tokens. ids_restore[b, l] = rank of patch l: below K, row
C + rank of x holds its token; the other patches are masked.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_tokens

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@jit
def _forward_kernel(
    x_ptr,
    mask_token_ptr,
    positions_ptr,
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
    """out[b, n] = (x[b, FIRST + rank] if visible else mask_token) + positions[n].

    FIRST: row of the first patch. x [batch, FIRST + keep, WIDTH], mask_token [WIDTH], positions
    [FIRST + PATCHES, WIDTH], ids_restore [batch, PATCHES], out [batch, FIRST + PATCHES, WIDTH], all
    contiguous. mask_token and positions are rounded to the dtype of x first. Grid: (row n of ROWS
    samples, columns); all samples of a program share one position.
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
    tokens = tl.load(
        x_ptr + (sample * (keep + FIRST) + FIRST + rank)[:, None] * WIDTH + column[None, :],
        mask=inside[:, None] & visible & wide[None, :],
        other=0.0,
    )
    fill = tl.load(mask_token_ptr + column, mask=wide, other=0.0)
    position = tl.load(positions_ptr + row * WIDTH + column, mask=wide, other=0.0)
    fill = fill.to(tokens.dtype).to(tl.float32)[None, :]
    position = position.to(tokens.dtype).to(tl.float32)[None, :]
    out = tl.where(visible, tokens.to(tl.float32), fill) + position
    tl.store(
        out_ptr + (sample * (PATCHES + FIRST) + row)[:, None] * WIDTH + column[None, :],
        out.to(tokens.dtype),
        mask=inside[:, None] & wide[None, :],
    )


@jit
def _backward_kernel(
    grad_ptr,
    ids_restore_ptr,
    grad_x_ptr,
    partial_ptr,
    rows,
    keep,
    PATCHES: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_x[b, FIRST + rank] = grad[b, n] where visible; partial[program] = sum of masked rows.

    grad [rows = batch * (FIRST + PATCHES), WIDTH], grad_x [batch * (FIRST + keep), WIDTH], partial
    fp32 [programs, WIDTH], contiguous. Grid: (TILES * ROWS rows of grad, columns). Each row of grad
    is read once, and its rank gives its row of grad_x, so no inverse of ids_restore is needed.
    """
    program = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wide = column < WIDTH
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for tile in range(TILES):
        row = (program * TILES + tile) * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        sample, patch = (row // (PATCHES + FIRST)).to(tl.int64), row % (PATCHES + FIRST) - FIRST
        rank = tl.load(
            ids_restore_ptr + sample * PATCHES + patch, mask=inside & (patch >= 0), other=patch
        )
        visible, own = (rank < keep)[:, None], sample * (keep + FIRST) + FIRST + rank
        mask = inside[:, None] & wide[None, :]
        grad = tl.load(
            grad_ptr + row.to(tl.int64)[:, None] * WIDTH + column[None, :], mask=mask, other=0.0
        )
        tl.store(
            grad_x_ptr + own[:, None] * WIDTH + column[None, :],
            grad,
            mask=mask & visible,
        )
        total += tl.where(visible, 0.0, grad.to(tl.float32))
    tl.store(partial_ptr + program.to(tl.int64) * WIDTH + column, tl.sum(total, axis=0), mask=wide)


def row_tiles(width: int) -> dict[str, int]:
    """Return launch settings: tiles of 8 rows by at most 512 columns, 32 elements per thread, which
    allows the widest loads."""
    block = min(triton.next_power_of_2(width), 512)
    return {"ROWS": 8, "BLOCK": block, "num_warps": max(block // 128, 1)}


def tiles_per_program(tiles: int) -> int:
    """Return how many tiles a program of the backward pass sums up.

    A power of two, so that few kernels are compiled, with 2048 to 4096 programs, which fill a GPU.
    """
    return 1 << (max(tiles // 2048, 1).bit_length() - 1)


@torch.library.custom_op("fastimae::assemble_tokens", mutates_args=())
def _assemble_tokens(
    x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor, on_triton: bool
) -> Tensor:
    if not on_triton:
        return _forward_torch(x, mask_token, positions, ids_restore)
    out = _empty_out(x, mask_token, positions, ids_restore, on_triton)
    batch, patches = ids_restore.shape
    rows, width = out.shape[1:]
    if not batch:
        return out
    settings = row_tiles(width)
    samples, columns = triton.cdiv(batch, settings["ROWS"]), triton.cdiv(width, settings["BLOCK"])
    launch(
        _forward_kernel,
        (rows * samples, columns),
        x_ptr=x.contiguous(),
        mask_token_ptr=mask_token.contiguous(),
        positions_ptr=positions.contiguous(),
        ids_restore_ptr=ids_restore.contiguous(),
        out_ptr=out,
        batch=batch,
        keep=x.shape[1] - (rows - patches),
        PATCHES=patches,
        FIRST=rows - patches,
        WIDTH=width,
        **settings,
    )
    return out


@_assemble_tokens.register_fake
def _empty_out(
    x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor, on_triton: bool
) -> Tensor:
    return x.new_empty(len(x), *positions.shape[1:])


@torch.library.custom_op("fastimae::assemble_tokens_backward", mutates_args=())
def _assemble_tokens_backward(
    grad: Tensor, ids_restore: Tensor, keep: int, on_triton: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, [B, C + keep, E] in its dtype, and of the mask token, [E] in fp32
    or better."""
    if not on_triton:
        return _backward_torch(grad, ids_restore, keep)
    grad_x, grad_token = _empty_grads(grad, ids_restore, keep, on_triton)
    batch, rows, width = grad.shape
    patches = ids_restore.shape[1]
    if not batch:
        return grad_x, grad_token.zero_()
    settings = row_tiles(width)
    tiles = tiles_per_program(triton.cdiv(batch * rows, settings["ROWS"]))
    programs = triton.cdiv(batch * rows, settings["ROWS"] * tiles)
    partial = grad_token.new_empty(programs, width)
    launch(
        _backward_kernel,
        (programs, triton.cdiv(width, settings["BLOCK"])),
        grad_ptr=grad.contiguous(),
        ids_restore_ptr=ids_restore.contiguous(),
        grad_x_ptr=grad_x,
        partial_ptr=partial,
        rows=batch * rows,
        keep=keep,
        PATCHES=patches,
        FIRST=rows - patches,
        WIDTH=width,
        TILES=tiles,
        **settings,
    )
    return grad_x, partial.sum(0)


@_assemble_tokens_backward.register_fake
def _empty_grads(
    grad: Tensor, ids_restore: Tensor, keep: int, on_triton: bool
) -> tuple[Tensor, Tensor]:
    (batch, rows, width), patches = grad.shape, ids_restore.shape[1]
    grad_x = grad.new_empty(batch, rows - patches + keep, width)
    return grad_x, grad.new_empty(width, dtype=_sum_dtype(grad))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, mask_token, positions, ids_restore, ctx.on_triton = inputs
    ctx.keep = x.shape[1] - (positions.shape[1] - ids_restore.shape[1])
    ctx.dtypes = mask_token.dtype, positions.dtype
    ctx.save_for_backward(ids_restore)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (ids_restore,) = ctx.saved_tensors
    grad_x, grad_token = _assemble_tokens_backward(grad, ids_restore, ctx.keep, ctx.on_triton)
    grad_positions = None
    if ctx.needs_input_grad[2]:  # MAE's positions are fixed, but a caller's may be learned
        grad_positions = grad.sum(0, True, dtype=_sum_dtype(grad)).to(ctx.dtypes[1])
    return grad_x, grad_token.to(ctx.dtypes[0])[None, None], grad_positions, None, None


_assemble_tokens.register_autograd(_gradients, setup_context=_save)


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _forward_torch(x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor) -> Tensor:
    positions = positions.to(x.dtype)
    out_BNE = (mask_token.to(x.dtype) + positions).repeat(len(x), 1, 1)
    rows = rows_by_rank(ids_restore, positions.shape[1])[:, : x.shape[1]].flatten()
    tokens = x.flatten(0, 1) + positions[0].index_select(0, rows % positions.shape[1])
    out_BNE.flatten(0, 1).index_copy_(0, rows, tokens)
    return out_BNE


def _backward_torch(grad: Tensor, ids_restore: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    batch, rows, width = grad.shape
    flat, rows_BN = grad.flatten(0, 1), rows_by_rank(ids_restore, rows)
    seen = rows - ids_restore.shape[1] + keep
    grad_x = flat.index_select(0, rows_BN[:, :seen].flatten())
    masked_BM = rows_BN[:, seen:]
    starts = torch.arange(batch, device=grad.device) * masked_BM.shape[1]
    sums_BE = F.embedding_bag(masked_BM.flatten(), flat, starts, mode="sum")  # copies no row
    return grad_x.view(batch, seen, width), sums_BE.sum(0, dtype=_sum_dtype(grad))


def rows_by_rank(ids_restore: Tensor, rows: int) -> Tensor:
    """Return the row numbers of the flat output, int64 [B, rows], in order of rank.

    rows: C + L. Each sample's class tokens come first, then its visible patches, then its masked
    ones.
    """
    batch, patches = ids_restore.shape
    row_BN = torch.arange(rows, device=ids_restore.device).expand(batch, -1)
    first = rows - patches
    ranked_BN = row_BN.scatter(1, ids_restore.long() + first, row_BN[:, first:])
    return ranked_BN + torch.arange(batch, device=row_BN.device)[:, None] * rows


def assemble_tokens(
    x: Tensor, mask_token: Tensor, positions: Tensor, ids_restore: Tensor, *, impl: Impl = "auto"
) -> Tensor:
    """Assemble the decoder's input from visible tokens and mask tokens (MAE, section 3).

    Visible tokens go to their positions, the mask token everywhere else; positions are added.
    x: [B, C + K, E], class tokens first. mask_token: [1, 1, E]. positions: [1, C + L, E], C = 1 in
    MAE. Any float dtype; the latter two are rounded to that of x. ids_restore: integer [B, L], each
    row a permutation (`Mask.ids_restore`). impl: "triton", "torch", or "auto" for the faster
    available.

    Returns [B, C + L, E] in the dtype of x. Gradients flow to x, mask_token and positions; sums
    over the batch are at least fp32, and the same in every run.
    Raises ValueError if shapes do not fit together, and if impl="triton" cannot run.
    """
    check_tokens(x, mask_token, positions, ids_restore)
    obstacle = "" if x.dtype in DTYPES else f"its tokens are {x.dtype}"
    tensors = (x, mask_token, positions, ids_restore)
    on_triton = use_triton("assemble_tokens", impl, *tensors, obstacle=obstacle)
    return _assemble_tokens(*tensors, on_triton)
