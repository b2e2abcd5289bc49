"""Which rows an attention tile holds, and how those of one head are loaded and stored.

Names are as in `_attention_tile`.
"""

from __future__ import annotations

from fastimae.kernels._launch import jit, tl


@jit
def load_rows(
    head_ptr, stride_b, stride_n, sample, token, inside,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, OPERAND: tl.constexpr,
):  # fmt: skip
    """Load rows (sample, token) of one head: [rows, D] in OPERAND, 0 where there is no such row."""
    column = tl.arange(0, PADDED)
    row_ptr = head_ptr + sample.to(tl.int64) * stride_b + token.to(tl.int64) * stride_n
    mask = inside[:, None] & (column < WIDTH)[None, :]
    return tl.load(row_ptr[:, None] + column[None, :], mask=mask, other=0.0).to(OPERAND)


@jit
def store_rows(
    head_ptr, stride_b, stride_n, sample, token, inside, x,
    WIDTH: tl.constexpr, PADDED: tl.constexpr,
):  # fmt: skip
    """Store what `load_rows` loads, in the dtype of head_ptr."""
    column = tl.arange(0, PADDED)
    row_ptr = head_ptr + sample.to(tl.int64) * stride_b + token.to(tl.int64) * stride_n
    mask = inside[:, None] & (column < WIDTH)[None, :]
    tl.store(row_ptr[:, None] + column[None, :], x.to(head_ptr.dtype.element_ty), mask=mask)


@jit
def rows_of_tile(
    tile, row, batch, TOKENS: tl.constexpr, SLOT: tl.constexpr, KEYS: tl.constexpr
):  # fmt: skip
    """Return the sample and token that a row of the tile holds, and whether they exist."""
    sample, token = tile * (KEYS // SLOT) + row // SLOT, row % SLOT
    return sample, token, (token < TOKENS) & (sample < batch)
