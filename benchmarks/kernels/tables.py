"""Tables of the measurements of ops."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.harness import number, page, table


def markdown(report: Mapping) -> str:
    """Make the page of a report."""
    rows = report["rows"]
    return page(
        report,
        table(rows, first=rows[-1] if rows else ()),  # the first row, a copy's, has few columns
        "Bytes of an i-MAE step outside of blocks and matrix products:\n",
        table(report["traffic"]),
    )


def kernel_table(report: Mapping) -> str:
    """Make a row for each op and pass: milliseconds of each variant, ours as a share of a copy."""
    rows: dict[tuple, dict[str, object]] = {}
    for one in report["rows"]:
        if one["op"] == "copy":
            continue
        key = one["op"], one["shape"], one["pass"]
        row = rows.setdefault(key, dict(zip(("op", "shape", "pass"), key, strict=True)))
        row[f"{one['variant']}, ms"] = number(one["ms"])
        if one["variant"] == "auto":
            row["of a copy's GB/s"] = f"{one['of copy']:.0%}"
    return table(list(rows.values()))
