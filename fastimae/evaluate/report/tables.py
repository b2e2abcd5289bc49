"""Tables: Markdown for people to paste, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """A Markdown table with a line for each row; columns: keys to show, by default all."""
    names = list(columns or columns_of(rows))
    lines = [names, *([shown(row.get(name)) for name in names] for row in rows)]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    cells.insert(1, ["---"] * len(names))
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All keys of the rows, in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def shown(value: Any) -> str:
    """A value as text: numbers with four significant digits, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return str(value)
