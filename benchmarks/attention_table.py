"""From a sweep of `benchmarks.attention` to the table of its architecture: who won."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.harness import write_whole
from fastimae.kernels._attention_choice import BACKENDS, architecture, path_of, read

MARGIN = 0.03
"""What is slower by less stays as it is: that is noise."""

BOTH = "forward+backward"
Key = TypeVar("Key")
Row = dict[str, object]


def update(sweep: Path) -> list[Row]:
    """Write the winners of a sweep into the table of its architecture; returns the rows of it.

    A shape that the sweep did not finish keeps its row. Raises ValueError for a rehearsal's.
    """
    report = json.loads(sweep.read_text())
    number = report.get("architecture")
    if number is None:
        raise ValueError(f"{sweep} is of a rehearsal, or no sweep of benchmarks.attention")
    content = json.loads(path_of(architecture(divmod(number, 10))).read_text())
    content["rows"] = [_settled(row, report) for row in content["rows"]]
    write_table(path_of(number), content)
    return content["rows"]


def write_table(path: Path, content: Mapping[str, object]) -> None:
    """Write a table, a line a row, and check it. Raises ValueError."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    about = json.dumps(content["about"])
    write_whole(path, f'{{\n "about": {about},\n "rows": [\n{rows}\n ]\n}}\n')
    read(path)


def _settled(row: Row, report: Mapping) -> Row:
    """A row of the table after a sweep."""
    shape = [row["tokens"], row["head_dim"]]
    if shape not in report["finished"]:
        return row
    rows = [one for one in report["rows"] if [one["tokens"], one["head_dim"]] == shape]
    forward, backward = (times(rows, "triton", way) for way in ("forward", "backward"))
    sdpa = {name: us for name in BACKENDS for us in times(rows, name, BOTH).values()}
    new = dict(row, source=_source(report))
    totals = {}
    if forward and backward:
        new |= {"forward": list(settle(tuple(row["forward"]), forward))}
        new |= {"backward": list(settle(tuple(row["backward"]), backward))}
        totals["triton"] = forward[tuple(new["forward"])] + backward[tuple(new["backward"])]
    if sdpa:
        first = settle(row["sdpa"][0], sdpa)
        new["sdpa"] = sorted(sdpa, key=lambda name: (name != first, sdpa[name]))
        totals["sdpa"] = sdpa[first]
    return new | {"use": settle(row["use"], totals)}


def times(rows: Sequence[Row], way: str, direction: str) -> dict[tuple[int, ...], float]:
    """Microseconds of a way by its passes, () for SDPA; without what failed."""
    found = [row for row in rows if (row["way"], row["direction"]) == (way, direction)]
    return {tuple(row["pass"] or ()): row["us"] for row in found if "us" in row}


def summary(rows: Sequence[Row]) -> list[Row]:
    """A line for each shape: our best passes, and microseconds of forward and backward together."""
    found = []
    for shape in dict.fromkeys((row["tokens"], row["head_dim"]) for row in rows):
        own = [row for row in rows if (row["tokens"], row["head_dim"]) == shape]
        ours = [times(own, "triton", direction) for direction in ("forward", "backward")]
        best = [min(by_pass, key=by_pass.get) for by_pass in ours if by_pass]
        cells: Row = {"N": shape[0], "d": shape[1]}
        cells["our passes"] = ", ".join("x".join(map(str, one)) for one in best)
        cells["ours, us"] = sum(min(one.values()) for one in ours) if all(ours) else ""
        for name in BACKENDS:
            cells[f"{name}, us"] = times(own, name, BOTH).get((), "")
        found.append(cells)
    return found


def settle(present: Key, times: Mapping[Key, float]) -> Key:
    """The fastest, or what is present while it is not slower by more than the margin."""
    best = min(times, key=times.get, default=present)
    within = present in times and times[present] <= (1 + MARGIN) * times[best]
    return present if within else best


def _source(report: Mapping) -> str:
    """Where and with what a row was measured."""
    driver = report.get("gpu", {}).get("driver", "unknown")
    versions = " ".join(f"{name} {report['versions'][name]}" for name in ("torch", "triton"))
    return (
        f"{report['device']}, driver {driver}, {report['date'][:10]}, "
        f"commit {report['commit']}, {versions}"
    )
