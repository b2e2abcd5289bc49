"""Writes the winners of an op's sweep into the table of its architecture, which training reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.harness import write_whole
from fastimae.kernels._tables import architecture, read_table, table_path

MARGIN = 0.03
"""A present choice stays if it is slower by no more than this, which is noise."""

Key = TypeVar("Key")
Row = dict[str, object]
Times = dict[tuple[int, ...], float]
"""Microseconds by settings."""


def update(
    op: str,
    sweep: Path,
    settled: Callable[[Row, Sequence[Row]], Row],
    parse: Callable[[list[Row]], object],
) -> list[Row]:
    """Write the winners of a sweep into the op's table of its architecture; return the table.

    settled: makes a row of the table from the old row and the sweep's rows of its shape. parse:
    checks a table. A shape that the sweep did not finish keeps its row. Raises ValueError for a
    rehearsal.
    """
    report = json.loads(sweep.read_text())
    number = report.get("architecture")
    if number is None or report.get("op") != op:
        raise ValueError(f"{sweep} is from a rehearsal, or not a sweep of benchmarks.{op}")
    content = json.loads(table_path(op, architecture(op, divmod(number, 10))).read_text())
    for row in content["rows"]:
        found = [one for one in report["rows"] if _same(one, row, report["shape"])]
        if [row[name] for name in report["shape"]] in report["finished"]:
            row |= settled(row, found) | {"source": _source(report)}
    write_table(table_path(op, number), content, parse)
    return content["rows"]


def _same(one: Mapping, other: Mapping, names: Sequence[str]) -> bool:
    return all(one[name] == other[name] for name in names)


def write_table(
    path: Path, content: Mapping[str, object], parse: Callable[[list[Row]], object]
) -> None:
    """Write a table, one row per line, and check it. Raises ValueError."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    about = json.dumps(content["about"])
    write_whole(path, f'{{\n "about": {about},\n "rows": [\n{rows}\n ]\n}}\n')
    read_table(path, parse)


def settle(present: Key, times: Mapping[Key, float]) -> Key:
    """Return the fastest, or the present choice if it is slower by no more than the margin."""
    best = min(times, key=times.get, default=present)
    within = present in times and times[present] <= (1 + MARGIN) * times[best]
    return present if within else best


def times(rows: Sequence[Row], name: str, direction: str, settings: str) -> Times:
    """Collect the times of a variant by its settings, () for a library; without failed ones.

    settings: the column that has them.
    """
    found = [row for row in rows if (row["way"], row["direction"]) == (name, direction)]
    return {tuple(row[settings] or ()): row["us"] for row in found if "us" in row}


def spelled(settings: Sequence[int] | None) -> str:
    """Write a kernel's settings as one word, such as 64x4x1; nothing for None."""
    return "x".join(map(str, settings or ()))


def _source(report: Mapping) -> str:
    """Describe where and with what a row was measured."""
    driver = report.get("gpu", {}).get("driver", "unknown")
    versions = " ".join(f"{name} {report['versions'][name]}" for name in ("torch", "triton"))
    return (
        f"{report['device']}, driver {driver}, {report['date'][:10]}, "
        f"commit {report['commit']}, {versions}"
    )
