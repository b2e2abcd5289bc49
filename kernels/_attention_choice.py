"""How attention runs, by shape and GPU: reads the tables attention_sm*.json beside this file.

A table gives, for 15 shapes on one architecture, the faster implementation and its settings;
`python -m benchmarks.attention` measures and writes it. Every shape uses the row whose tile it
would share: tokens and head width are rounded up to a power of two, from 64 and 32 up to 1024 and
128.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch

from fastimae.kernels._tables import Row, architecture, capability, read_table, table_path

KEYS, WIDTHS = (64, 128, 256, 512, 1024), (32, 64, 128)
BACKENDS = ("cudnn", "flash", "efficient")
"""SDPA's back ends, as the tables name them."""

Shape = tuple[int, int]
"""Keys and columns of a tile."""


class AttentionTile(NamedTuple):
    """The layout of a tile: rows of one sequence's slot, and rows of all keys in the tile."""

    slot: int
    keys: int


class Pass(NamedTuple):
    """Launch settings of a kernel that loops over queries; results differ by rounding only.

    queries: rows per iteration. stages: of the pipelined loads. parts: a backward pass takes its
    keys in this many equal parts, one after another, so that a thread holds less; a forward pass
    takes them at once.
    """

    queries: int
    warps: int
    stages: int
    parts: int = 1


class AttentionChoice(NamedTuple):
    """A row of a table.

    use: the faster implementation. forward, backward: the settings of Triton's passes, None where
    no tile fits. sdpa: back ends, best first.
    """

    use: Literal["triton", "sdpa"]
    forward: Pass | None
    backward: Pass | None
    sdpa: tuple[str, ...]


AttentionTable = Mapping[Shape, AttentionChoice]


def choose(tokens: int, width: int, device: torch.device) -> AttentionChoice:
    """Return the row for sequences of `tokens` and heads of `width` channels on a device.

    Below compute capability 8.0 it selects SDPA. Raises ValueError if the table is missing or
    broken.
    """
    version = capability(device)
    row = _table(version)[rounded(tokens, width)]
    return row if version >= (8, 0) else row._replace(use="sdpa")


def tile_of(tokens: int, width: int) -> AttentionTile | None:
    """Return the tile for a sequence length and a head width, or None if it would not fit."""
    if not fits(rounded(tokens, width)):
        return None
    slot = next(power for power in (16, 32, 64, 128, 256) if tokens <= power)
    return AttentionTile(slot, keys=max(64, slot))


def rounded(tokens: int, width: int) -> Shape:
    """Return the shape that represents all shapes with the same keys and columns in their tile."""
    keys = [keys for keys in KEYS if tokens <= keys] or KEYS[-1:]
    widths = [columns for columns in WIDTHS if width <= columns] or WIDTHS[-1:]
    return keys[0], widths[0]


def fits(shape: Shape) -> bool:
    """Return whether a tile of (keys, columns) compiles, with some `Pass`, without spills."""
    return shape[0] * shape[1] <= 8192


def _table(version: tuple[int, int]) -> AttentionTable:
    return table_for(version)


# So that torch.compile does not trace into reading a file. This is what
# torch.compiler.assume_constant_result does, but importing that takes a second.
_table._dynamo_marked_constant = True


@functools.cache
def table_for(version: tuple[int, int]) -> AttentionTable:
    """Read the table for devices of a compute capability, once per process."""
    return read_table(table_path("attention", architecture("attention", version)), parse)


def parse(rows: list[Row]) -> AttentionTable:
    """Check the rows of a table and index them. Raises KeyError, TypeError or ValueError."""
    table = {rounded(row["tokens"], row["head_dim"]): _parse_row(row) for row in rows}
    missing = {(keys, width) for keys in KEYS for width in WIDTHS} - set(table)
    if missing or len(table) < len(rows):
        raise ValueError(f"each tile needs exactly one row: none for {sorted(missing)}")
    return table


def _parse_row(row: Row) -> AttentionChoice:
    passes = [Pass(*row[name]) if row[name] else None for name in ("forward", "backward")]
    choice = AttentionChoice(row["use"], *passes, tuple(row["sdpa"]))
    keys, width = rounded(row["tokens"], row["head_dim"])
    has_tile = fits((keys, width))
    implementations = ("triton", "sdpa") if has_tile else ("sdpa",)
    if choice.use not in implementations or not set(choice.sdpa) <= set(BACKENDS):
        raise ValueError(f"invalid use or sdpa in {row}")
    for settings in passes:
        if (settings is not None) != has_tile or (settings and not _compiles(settings, keys)):
            raise ValueError(f"invalid forward or backward in {row}")
    if choice.forward and choice.forward.parts != 1:
        raise ValueError(f"forward must have 1 part in {row}")
    return choice


def _compiles(settings: Pass, keys: int) -> bool:
    """Return whether Triton accepts the settings: powers of two, blocks of at least 16 rows."""
    return (
        all(type(number) is int for number in settings)
        and settings.queries in (16, 32, 64, 128, 256)
        and keys % settings.queries == 0
        and settings.warps in (1, 2, 4, 8, 16, 32)
        and settings.stages >= 1
        and settings.parts in (1, 2, 4)
    )
