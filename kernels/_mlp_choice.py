"""How an MLP's products run, by shape and GPU: reads the tables mlp_sm*.json beside this file.

A table gives, for the shapes of our models on one architecture, the faster implementation and the
blocks of our kernels; `python -m benchmarks.mlp` measures and writes it. A shape uses the next
larger width in the table and, of its rows, the one whose number of rows is nearest by ratio.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import torch

from fastimae.kernels._tables import Row, architecture, capability, read_table, table_path

PIECE = 64
"""Columns that a tile's epilogue handles at a time: 128 bytes, the width that Hopper's copies
swizzle, and few registers."""


class Blocks(NamedTuple):
    """Launch settings of a matrix product.

    rows, columns: size of a tile of the result. inner: channels that are summed at a time.
    stages: of the pipelined loads.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int


class MlpChoice(NamedTuple):
    """A row of a table: the faster implementation, and the settings of Triton's two products."""

    use: Literal["triton", "torch"]
    forward: Blocks
    backward: Blocks


MlpTable = tuple[tuple[int, int, MlpChoice], ...]
"""Width, rows and choice of each row, ascending; a tuple, as torch.compile cannot trace a lookup in
a dict."""


def choose(rows: int, width: int, device: torch.device) -> MlpChoice:
    """Return the choice for `rows` rows of `width` channels on a device.

    Below compute capability 8.0 it selects torch. Raises ValueError if the table is missing or
    broken.
    """
    version = capability(device)
    table = _table(version)
    next_width = table[-1][0]
    for table_width, _, _ in reversed(table):
        if width <= table_width:
            next_width = table_width
    best_ratio, best = None, table[-1][2]
    for table_width, table_rows, choice in table:
        ratio = max(table_rows, rows) / max(1, min(table_rows, rows))
        if table_width == next_width and (best_ratio is None or ratio < best_ratio):
            best_ratio, best = ratio, choice
    return best if version >= (8, 0) else best._replace(use="torch")


def has_descriptors(device: torch.device) -> bool:
    """Return whether the device copies blocks to shared memory by descriptors: Hopper and later."""
    return capability(device) >= (9, 0)


def _table(version: tuple[int, int]) -> MlpTable:
    return table_for(version)


_table._dynamo_marked_constant = True  # for the reason, see `_attention_choice`


@functools.cache
def table_for(version: tuple[int, int]) -> MlpTable:
    """Read the table for devices of a compute capability, once per process."""
    return read_table(table_path("mlp", architecture("mlp", version)), parse)


def parse(rows: list[Row]) -> MlpTable:
    """Check and sort the rows of a table. Raises KeyError, TypeError or ValueError."""
    table = tuple(sorted((row["width"], row["rows"], _parse_row(row)) for row in rows))
    shapes = {entry[:2] for entry in table}
    if not rows or len(shapes) < len(rows):
        raise ValueError(f"each shape needs exactly one row: {len(rows)} for {len(shapes)} shapes")
    return table


def _parse_row(row: Row) -> MlpChoice:
    choice = MlpChoice(row["use"], Blocks(*row["forward"]), Blocks(*row["backward"]))
    if choice.use not in ("triton", "torch"):
        raise ValueError(f"invalid use in {row}")
    if not (_compiles(choice.forward) and _compiles(choice.backward)):
        raise ValueError(f"invalid forward or backward in {row}")
    if not all(type(row[name]) is int and row[name] > 0 for name in ("rows", "width")):
        raise ValueError(f"invalid rows or width in {row}")
    return choice


def _compiles(blocks: Blocks) -> bool:
    """Return whether Triton accepts the blocks."""
    return (
        all(type(number) is int for number in blocks)
        and blocks.rows in (64, 128, 256)
        and blocks.columns in (PIECE, 2 * PIECE, 4 * PIECE)
        and blocks.inner in (16, 32, 64, 128)
        and blocks.warps in (4, 8, 16)
        and blocks.stages >= 1
    )
