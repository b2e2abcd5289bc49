"""Reading of the tables OP_sm*.json beside this file: measured choices per GPU architecture.

A device uses the table of the latest architecture that is not newer than itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

FOLDER = Path(__file__).parent

Row = Mapping[str, Any]
Table = TypeVar("Table")


def capability(device: torch.device) -> tuple[int, int]:
    """Return a GPU's compute capability; (0, 0) for devices where kernels are interpreted."""
    if device.type != "cuda":
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.minor


def architecture(op: str, version: tuple[int, int]) -> int:
    """Return the latest architecture with a table, such as 90, up to a compute capability.

    If all are newer, return the oldest. Raises ValueError if the op has no tables.
    """
    paths = FOLDER.glob(table_path(op, "*").name)
    names = [path.stem.removeprefix(f"{op}_sm") for path in paths]
    numbers = [int(name) for name in names if name.isdecimal()]
    if not numbers:
        raise ValueError(f"no {table_path(op, '*').name} in {FOLDER}: reinstall fastimae")
    fitting = (number for number in numbers if divmod(number, 10) <= version)
    return max(fitting, default=min(numbers))


def table_path(op: str, architecture: int | str) -> Path:
    """Return the path of an architecture's table."""
    return FOLDER / f"{op}_sm{architecture}.json"


def read_table(path: Path, parse: Callable[[list[Row]], Table]) -> Table:
    """Return what `parse` makes of the file's rows. Raises ValueError that names the file.

    parse: raises KeyError, TypeError or ValueError for invalid rows.
    """
    try:
        return parse(json.loads(path.read_text())["rows"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        op = path.stem.partition("_sm")[0]
        message = f"{path} is not a valid {op} table ({error!r}): reinstall fastimae"
        raise ValueError(message) from error
