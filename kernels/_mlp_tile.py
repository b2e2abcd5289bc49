"""Two matrix products of an MLP, with GELU or its derivative applied to tiles in registers.

M = rows, K = summed axis, N = columns. Programs stay on their multiprocessor and compute one tile
of the result after another: during a tile's epilogue, the operands of the next tile are already on
their way to shared memory. Order: kernels, launchers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._attention_tile import operand_dtype
from fastimae.kernels._launch import (
    interpreted,
    jit,
    launch,
    multiprocessor_count,
    tl,
    triton_dtype,
)
from fastimae.kernels._mlp_choice import PIECE, Blocks, has_descriptors
from fastimae.kernels.late_bias import column_sums

try:
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:  # no triton
    TensorDescriptor = None

GROUP = 8
"""Tiles of rows that take turns with the columns, so that their common operands stay in cache."""


@jit
def _rounded(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """Round x to a dtype of 16 bits, two values at a time.

    A value that is both stored and used rounded is otherwise converted on its own, at an eighth of
    the rate. The interpreter cannot run assembly.
    """
    if INTERPRETED:
        whole = x.to(DTYPE)
    elif DTYPE.is_fp16():
        whole = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x], tl.float16, is_pure=True, pack=2
        )
    else:
        whole = tl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], tl.bfloat16, is_pure=True, pack=2
        )
    return whole


@jit
def _beyond(h):
    """Return (u, d, e) for u = |h|: d = exp(-u^2 / 2), and d e = 1 - Phi(u), Phi the normal CDF.

    e is a polynomial, fitted so that the error of Phi is at most 1e-7, as with an fp32 erf, in half
    the instructions. u is clipped at 16, where d is 0. All three are NaN where h is.
    """
    u = tl.minimum(tl.abs(h), 16.0, propagate_nan=tl.PropagateNan.ALL)
    e = -2.430551830912009e-07 * u + 6.257611403270857e-06
    e = e * u - 7.244592416100204e-05
    e = e * u + 0.0005055625806562603
    e = e * u - 0.0024232338182628155
    e = e * u + 0.008701859973371029
    e = e * u - 0.025127792730927467
    e = e * u + 0.061684705317020416
    e = e * u - 0.13271088898181915
    e = e * u + 0.2499537318944931
    e = e * u - 0.3989391624927521
    e = e * u + 0.4999999701976776
    return u, tl.exp2(u * u * -0.7213475204444817), e


@jit
def gelu(h):
    """Compute h Phi(h)."""
    u, d, e = _beyond(h)
    return tl.maximum(h, 0.0) - u * e * d


@jit
def gelu_slope(h):
    """Compute the derivative of gelu, Phi(h) + h exp(-h^2 / 2) / sqrt(2 pi)."""
    u, d, e = _beyond(h)
    below = (e - 0.3989422804014327 * u) * d  # the derivative at -u
    return tl.where(h > 0, 1.0 - below, below)


@jit
def _place(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Return the row and the column, counted in tiles, of tile number `tile`."""
    in_group = GROUP * column_tiles
    first = tile // in_group * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    return first + tile % in_group % size, tile % in_group // size


@jit
def _halves(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Split [ROWS, COLUMNS] into its left and its right columns."""
    return x.reshape(ROWS, 2, COLUMNS // 2).permute(0, 2, 1).split()


@jit
def _pieces(x, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PIECE: tl.constexpr):
    """Split the columns of [ROWS, COLUMNS] into one, two or four pieces."""
    if COLUMNS == PIECE:
        pieces = (x,)
    elif COLUMNS == 2 * PIECE:
        pieces = _halves(x, ROWS, COLUMNS)
    else:
        left, right = _halves(x, ROWS, COLUMNS)
        pieces = _halves(left, ROWS, COLUMNS // 2) + _halves(right, ROWS, COLUMNS // 2)
    return pieces


@jit
def _load(
    x_ptr, row, column, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Load a block of x [rows, columns], 0 beyond its ends. x_ptr: a descriptor if DESCRIBED."""
    if DESCRIBED:
        block = x_ptr.load([row, column])
    else:
        r, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        at = x_ptr + r.to(tl.int64)[:, None] * columns + c[None, :]
        block = tl.load(at, mask=(r < rows)[:, None] & (c < columns)[None, :], other=0.0)
    return block


@jit
def _store(
    x_ptr, block, row, column, rows, columns,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Store what `_load` loads."""
    if DESCRIBED:
        x_ptr.store([row, column], block)
    else:
        r, c = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
        at = x_ptr + r.to(tl.int64)[:, None] * columns + c[None, :]
        tl.store(at, block, mask=(r < rows)[:, None] & (c < columns)[None, :])


@jit
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, h_ptr, out_ptr, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PIECE: tl.constexpr,
    GROUP: tl.constexpr, OPERAND: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
    DESCRIBED: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """h = x weight^T + bias, rounded to DTYPE; out = gelu(h). h is stored if KEEP.

    x: [M, K], weight: [N, K], h and out: [M, N], bias: [N]. Grid: programs that share the tiles.
    """
    tl.assume(depth > 0)  # otherwise the compiler adds a second loop, for empty sums
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    first, step = tl.program_id(0), tl.num_programs(0)
    for tile in tl.range(first, row_tiles * column_tiles, step, flatten=True):
        row, column = _place(tile, row_tiles, column_tiles, GROUP)
        row, column = row * ROWS, column * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, depth, INNER):
            x = _load(x_ptr, row, k, rows, depth, ROWS, INNER, DESCRIBED).to(OPERAND)
            weight = _load(weight_ptr, column, k, columns, depth, COLUMNS, INNER, DESCRIBED)
            sums = tl.dot(x, weight.to(OPERAND).T, sums, input_precision="ieee")
        pieces = _pieces(sums, ROWS, COLUMNS, PIECE)
        for i in tl.static_range(COLUMNS // PIECE):
            at = column + i * PIECE
            n = at + tl.arange(0, PIECE)
            bias = tl.load(bias_ptr + n, mask=n < columns, other=0.0).to(tl.float32)
            h = _rounded(pieces[i] + bias[None, :], DTYPE, INTERPRETED)
            if KEEP:
                _store(h_ptr, h, row, at, rows, columns, ROWS, PIECE, DESCRIBED)
            out = gelu(h.to(tl.float32)).to(DTYPE)
            _store(out_ptr, out, row, at, rows, columns, ROWS, PIECE, DESCRIBED)


@jit
def _backward_kernel(
    grad_ptr, weight_ptr, h_ptr, grad_h_ptr, sums_ptr, rows, columns, depth,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PIECE: tl.constexpr,
    GROUP: tl.constexpr, OPERAND: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr,
    DESCRIBED: tl.constexpr,
):  # fmt: skip
    """grad_h = (grad weight) gelu'(h), and its column sums over each tile of rows.

    grad: [M, K], weight: [K, N], h and grad_h: [M, N]. sums: fp32 [tiles of rows, N]; rows beyond
    the tensors add 0. Grid: programs that share the tiles.
    """
    tl.assume(depth > 0)
    row_tiles, column_tiles = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    first, step = tl.program_id(0), tl.num_programs(0)
    for tile in tl.range(first, row_tiles * column_tiles, step, flatten=True):
        row_tile, column = _place(tile, row_tiles, column_tiles, GROUP)
        row, column = row_tile * ROWS, column * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, depth, INNER):
            grad = _load(grad_ptr, row, k, rows, depth, ROWS, INNER, DESCRIBED).to(OPERAND)
            weight = _load(weight_ptr, k, column, depth, columns, INNER, COLUMNS, DESCRIBED)
            sums = tl.dot(grad, weight.to(OPERAND), sums, input_precision="ieee")
        pieces = _pieces(sums, ROWS, COLUMNS, PIECE)
        for i in tl.static_range(COLUMNS // PIECE):
            at = column + i * PIECE
            h = _load(h_ptr, row, at, rows, columns, ROWS, PIECE, DESCRIBED).to(tl.float32)
            grad_h = pieces[i] * gelu_slope(h)
            whole = _rounded(grad_h, DTYPE, INTERPRETED)
            _store(grad_h_ptr, whole, row, at, rows, columns, ROWS, PIECE, DESCRIBED)
            n = at + tl.arange(0, PIECE)
            sums_row_ptr = sums_ptr + row_tile.to(tl.int64) * columns
            tl.store(sums_row_ptr + n, tl.sum(grad_h, 0), mask=n < columns)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, blocks: Blocks, *, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return (h, out) of `_forward_kernel`; h is empty unless `keep`."""
    rows, columns = len(x), len(weight)
    out = x.new_empty(rows, columns)
    h = torch.empty_like(out) if keep else out.new_empty(0)
    piece = (blocks.rows, PIECE)
    launch(
        _forward_kernel,
        _grid(rows, columns, blocks, x.device),
        x_ptr=_tensor_or_descriptor(x, (blocks.rows, blocks.inner)),
        weight_ptr=_tensor_or_descriptor(weight, (blocks.columns, blocks.inner)),
        bias_ptr=bias.contiguous(),
        h_ptr=_tensor_or_descriptor(h if keep else out, piece),
        out_ptr=_tensor_or_descriptor(out, piece),
        KEEP=keep,
        **_common(rows, columns, x, blocks),
    )
    return h, out


def backward(grad: Tensor, weight: Tensor, h: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return grad_h of `_backward_kernel` and its column sums [N], which are summed in fp32."""
    rows, columns = h.shape
    grad_h = torch.empty_like(h)
    sums = h.new_empty(-(-rows // blocks.rows), columns, dtype=torch.float32)
    piece = (blocks.rows, PIECE)
    launch(
        _backward_kernel,
        _grid(rows, columns, blocks, h.device),
        grad_ptr=_tensor_or_descriptor(grad, (blocks.rows, blocks.inner)),
        weight_ptr=_tensor_or_descriptor(weight, (blocks.inner, blocks.columns)),
        h_ptr=_tensor_or_descriptor(h, piece),
        grad_h_ptr=_tensor_or_descriptor(grad_h, piece),
        sums_ptr=sums,
        **_common(rows, columns, grad, blocks),
    )
    return grad_h, column_sums(sums, h.dtype)


def _tensor_or_descriptor(x: Tensor, block: tuple[int, int]) -> Tensor | TensorDescriptor:
    """Return what a kernel reads blocks of x through: a descriptor where the device has them.

    x is copied if it is not contiguous or not aligned to 16 bytes.
    """
    x = x.contiguous()
    x = x if x.data_ptr() % 16 == 0 else x.clone()
    return TensorDescriptor.from_tensor(x, list(block)) if has_descriptors(x.device) else x


def _grid(rows: int, columns: int, blocks: Blocks, device: torch.device) -> tuple[int]:
    """Return as many programs as run at once, or as there are tiles if those are fewer."""
    tiles = -(-rows // blocks.rows) * -(-columns // blocks.columns)
    at_once = multiprocessor_count(device) * max(1, 8 // blocks.warps)
    return (min(tiles, at_once),)


def _common(rows: int, columns: int, left: Tensor, blocks: Blocks) -> dict[str, object]:
    return {
        "rows": rows,
        "columns": columns,
        "depth": left.shape[1],
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "INNER": blocks.inner,
        "PIECE": PIECE,
        "GROUP": GROUP,
        "OPERAND": operand_dtype(left.dtype),
        "DTYPE": triton_dtype(left.dtype),
        "INTERPRETED": interpreted(),
        "DESCRIBED": has_descriptors(left.device),
        "num_warps": blocks.warps,
        "num_stages": blocks.stages,
    }
