"""How attention runs, by shape and GPU, from the tables attention_sm*.json beside this file.

A table says for 15 shapes which way is the faster on an architecture, and with which settings;
`python -m benchmarks.attention` measures and writes it. Any shape takes the row whose tile it would
share: tokens and head width count as the next power of two, from 64 and 32 up to 1024 and 128. A
device takes the table of the latest architecture up to its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

FOLDER = Path(__file__).parent
KEYS, WIDTHS = (64, 128, 256, 512, 1024), (32, 64, 128)
BACKENDS = ("cudnn", "flash", "efficient")
"""SDPA's back ends, by the names that tables use."""

Shape = tuple[int, int]
"""Keys and columns of a tile."""


class Tile(NamedTuple):
    """Rows of a sequence's slot, and of all keys in a tile."""

    slot: int
    keys: int


class Pass(NamedTuple):
    """How a kernel goes over its queries: so many at a time, by so many warps, with their loads in
    so many stages. The numbers come out the same, but for rounding."""

    queries: int
    warps: int
    stages: int


class Choice(NamedTuple):
    """A row of a table: the faster way; Triton's two passes, where a tile fits; SDPA's back ends,
    best first."""

    use: Literal["triton", "sdpa"]
    forward: Pass | None
    backward: Pass | None
    sdpa: tuple[str, ...]


Table = Mapping[Shape, Choice]


def choose(tokens: int, width: int, device: torch.device) -> Choice:
    """The row for sequences of `tokens` and heads of `width` channels on a device.

    Before 8.0 it is for SDPA. Raises ValueError where the table is missing or broken.
    """
    own = capability(device)
    row = _table(own)[rounded(tokens, width)]
    return row if own >= (8, 0) else row._replace(use="sdpa")


def capability(device: torch.device) -> tuple[int, int]:
    """A GPU's compute capability; (0, 0) for other devices, where kernels are interpreted."""
    if device.type != "cuda":
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.minor


def tile_of(tokens: int, width: int) -> Tile | None:
    """The tile for sequences of a length and heads of a width; None where it would not fit."""
    if not fits(rounded(tokens, width)):
        return None
    slot = next(power for power in (16, 32, 64, 128, 256) if tokens <= power)
    return Tile(slot, keys=max(64, slot))


def rounded(tokens: int, width: int) -> Shape:
    """The shape that stands for all whose tile has as many keys and columns."""
    keys = next((keys for keys in KEYS if tokens <= keys), KEYS[-1])
    return keys, next((columns for columns in WIDTHS if width <= columns), WIDTHS[-1])


def fits(shape: Shape) -> bool:
    """Whether a tile of (keys, columns) compiles without spilled registers, with some pass."""
    return shape[0] * shape[1] <= 8192


def _table(own: tuple[int, int]) -> Table:
    return table_for(own)


# Or torch.compile would look into the reading of a file. It is what
# torch.compiler.assume_constant_result does, which takes a second to import what compiles.
_table._dynamo_marked_constant = True


@functools.cache
def table_for(own: tuple[int, int]) -> Table:
    """The table that a device of a compute capability takes, read once."""
    return read(path_of(architecture(own)))


def architecture(own: tuple[int, int]) -> int:
    """The latest architecture, such as 90, up to a compute capability; the oldest if none is.

    Raises ValueError where there are no tables.
    """
    names = [path.stem.removeprefix("attention_sm") for path in FOLDER.glob(path_of("*").name)]
    found = [int(name) for name in names if name.isdecimal()]
    if not found:
        raise ValueError(f"no {path_of('*').name} in {FOLDER}: install fastimae again")
    return max((one for one in found if divmod(one, 10) <= own), default=min(found))


def path_of(architecture: int | str) -> Path:
    """Where the table of an architecture is."""
    return FOLDER / f"attention_sm{architecture}.json"


def read(path: Path) -> Table:
    """A table, checked. Raises ValueError that names the file."""
    try:
        rows = json.loads(path.read_text())["rows"]
        table = {rounded(row["tokens"], row["head_dim"]): _checked(row) for row in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no table of attention: {error!r}") from error
    missing = {(keys, width) for keys in KEYS for width in WIDTHS} - set(table)
    if missing or len(table) < len(rows):
        raise ValueError(f"{path} needs one row for each tile: none for {sorted(missing)}")
    return table


def _checked(row: Mapping[str, Any]) -> Choice:
    passes = [Pass(*row[name]) if row[name] else None for name in ("forward", "backward")]
    choice = Choice(row["use"], *passes, tuple(row["sdpa"]))
    keys, width = rounded(row["tokens"], row["head_dim"])
    fitting = fits((keys, width))
    ways = ("triton", "sdpa") if fitting else ("sdpa",)
    if choice.use not in ways or not set(choice.sdpa) <= set(BACKENDS):
        raise ValueError(f"use or sdpa of {row}")
    for one in passes:
        if (one is not None) != fitting or (one and not _compiles(one, keys)):
            raise ValueError(f"forward or backward of {row}")
    return choice


def _compiles(one: Pass, keys: int) -> bool:
    """Whether Triton takes a pass: blocks of 16 rows or more, warps in a power of two."""
    return (
        all(type(number) is int for number in one)
        and one.queries in (16, 32, 64, 128, 256)
        and keys % one.queries == 0
        and one.warps in (1, 2, 4, 8, 16, 32)
        and one.stages >= 1
    )
