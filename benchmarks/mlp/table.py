"""Turns a sweep of an MLP's products into the table of its architecture and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import winners
from benchmarks.winners import Row, Times, settle, spelled
from fastimae.kernels._mlp_choice import parse

DIRECTIONS = ("forward", "backward")


def update(sweep: Path) -> list[Row]:
    """Write the winners of a sweep into its table, see `winners.update`."""
    return winners.update("mlp", sweep, _settled, parse)


def summary(rows: Sequence[Row]) -> list[Row]:
    """Make a line for each shape and direction: our best blocks, and microseconds of all."""
    columns, found = ("rows", "width", "direction"), []
    for key in dict.fromkeys(tuple(row[name] for name in columns) for row in rows):
        of_key = [row for row in rows if tuple(row[name] for name in columns) == key]
        ours = _times(of_key, "triton", key[2])
        best = min(ours, key=ours.get, default=None)
        line: Row = dict(zip(columns, key, strict=True))
        line["our blocks"] = spelled(best)
        line["ours, us"] = ours.get(best, "")
        for name in ("torch", "cublaslt"):
            line[f"{name}, us"] = _times(of_key, name, key[2]).get((), "")
        found.append(line)
    return found


def _settled(row: Row, rows: Sequence[Row]) -> Row:
    """Update a row of the table from the rows that a sweep has of its shape."""
    new, totals = dict(row), {}
    ours, theirs = ([_times(rows, name, d) for d in DIRECTIONS] for name in ("triton", "torch"))
    if all(ours):
        for direction, found in zip(DIRECTIONS, ours, strict=True):
            new[direction] = list(settle(tuple(row[direction]), found))
        chosen = zip(DIRECTIONS, ours, strict=True)
        totals["triton"] = sum(found[tuple(new[direction])] for direction, found in chosen)
    if all(theirs):
        totals["torch"] = sum(found[()] for found in theirs)
    return new | {"use": settle(row["use"], totals)}


def _times(rows: Sequence[Row], name: str, direction: str) -> Times:
    return winners.times(rows, name, direction, "blocks")
