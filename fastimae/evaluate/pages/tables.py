"""Tables as Markdown and as plain text, and how tables and pages write numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

BEST = "*"
"""The sign of the best number of a column in plain text."""


class Cell(NamedTuple):
    """A number of a table with what there is to say about it."""

    text: str
    best: bool = False
    notes: tuple[int, ...] = ()
    """Numbers of footnotes."""


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Return a Markdown table with a line for each row. columns: keys to include; None: all."""
    names = list(columns or all_keys(rows))
    lines = [names, *([format_value(row.get(name)) for name in names] for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    cells.insert(1, ["---"] * len(names))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def plain_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table in columns of even width, as a terminal shows it: numbers on the right."""
    names = all_keys(rows)
    lines = [names, *([format_value(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def all_keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all keys of the rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def format_value(value: Any) -> str:
    """Write a value as text: numbers with four significant digits, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, Cell):
        notes = "".join(f"[{number}]" for number in value.notes)
        return f"{value.text}{notes} {BEST if value.best else ' '}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return str(value)


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
