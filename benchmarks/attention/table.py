"""Turns a sweep of attention into the table of its architecture, and into a readable summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import winners
from benchmarks.winners import Row, Times, settle, spelled
from fastimae.kernels._attention_choice import BACKENDS, Pass, parse

BOTH = "forward+backward"


def update(sweep: Path) -> list[Row]:
    """Write the winners of a sweep into its table, see `winners.update`."""
    return winners.update("attention", sweep, _settled, parse)


def summary(rows: Sequence[Row]) -> list[Row]:
    """Make a line for each shape: our best passes, and microseconds of forward and backward."""
    found = []
    for shape in dict.fromkeys((row["tokens"], row["head_dim"]) for row in rows):
        of_shape = [row for row in rows if (row["tokens"], row["head_dim"]) == shape]
        ours = [_times(of_shape, "triton", direction) for direction in ("forward", "backward")]
        best = [min(by_pass, key=by_pass.get) for by_pass in ours if by_pass]
        cells: Row = {"N": shape[0], "d": shape[1]}
        cells["our passes"] = ", ".join(map(spelled, best))
        cells["ours, us"] = sum(min(one.values()) for one in ours) if all(ours) else ""
        for name in BACKENDS:
            cells[f"{name}, us"] = _times(of_shape, name, BOTH).get((), "")
        found.append(cells)
    return found


def _settled(row: Row, rows: Sequence[Row]) -> Row:
    """Update a row of the table from the rows that a sweep has of its shape."""
    forward, backward = (_times(rows, "triton", d) for d in ("forward", "backward"))
    sdpa = {name: us for name in BACKENDS for us in _times(rows, name, BOTH).values()}
    new = dict(row)
    totals = {}
    if forward and backward:
        new |= {"forward": list(settle(Pass(*row["forward"]), forward))}
        new |= {"backward": list(settle(Pass(*row["backward"]), backward))}
        totals["triton"] = forward[tuple(new["forward"])] + backward[tuple(new["backward"])]
    if sdpa:
        first = settle(row["sdpa"][0], sdpa)
        new["sdpa"] = sorted(sdpa, key=lambda name: (name != first, sdpa[name]))
        totals["sdpa"] = sdpa[first]
    return new | {"use": settle(row["use"], totals)}


def _times(rows: Sequence[Row], name: str, direction: str) -> Times:
    return winners.times(rows, name, direction, "pass")
