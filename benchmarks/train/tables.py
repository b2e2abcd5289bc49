"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.harness import heading, table


def markdown(report: Mapping) -> str:
    """The whole report."""
    rates = [f"{name} {rate / 1e12:.3g}" for name, rate in report["gemm"].items()]
    parts = [
        heading(report),
        f"Square matrix products, TFLOP/s: {', '.join(rates)}. MFU is against the higher.\n",
    ]
    if report["results"]:
        parts += ["## Steps\n", step_table(report["results"])]
    for case in dict.fromkeys(row["case"] for row in report["ladder"]):
        rows = [row for row in report["ladder"] if row["case"] == case]
        parts += [f"## Ladder of {case}, batch {rows[0]['batch_size']}\n", ladder_table(rows)]
    for name, reason in report["failed"].items():
        parts.append(f"## FAILED: {name}\n\n```\n{reason}\n```\n")
    return "\n".join(parts)


def step_table(rows: Sequence[Mapping]) -> str:
    """A row for each variant of each case."""
    return table([_step(row) for row in rows]) + _notes(rows)


def ladder_table(rows: Sequence[Mapping]) -> str:
    """A row for each rung of one case, with what it gains over the one before."""
    before = [rows[0], *rows[:-1]]
    return table(
        [
            {
                "each with all above it": row["variant"],
                "img/s": number(row["img_per_s"]),
                "ms": number(row["ms"]),
                "20..80 %": f"{number(row['ms_20'])}..{number(row['ms_80'])}",
                "gain": f"x {row['img_per_s'] / last['img_per_s']:.2f}",
                "over the reference": f"x {row['x_reference']:.2f}",
            }
            for row, last in zip(rows, before, strict=True)
        ]
    )


def number(value: float | None) -> str:
    """Three digits, or all those before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _step(row: Mapping) -> dict[str, object]:
    spread = f"{number(row['ms_20'])}..{number(row['ms_80'])}" if "ms_20" in row else ""
    wait = row.get("data_wait")
    ratio = row["x_reference"]
    return {
        "case": row["case"],
        "variant": row["variant"],
        "data": row["data"],
        "precision": row["precision"],
        "batch": row["batch_size"],
        "img/s": number(row["img_per_s"]),
        "ms": number(row["ms"]),
        "20..80 %": spread,
        "MFU": f"{row['mfu']:.1%}",
        "memory, GB": number(row.get("memory_gb")),
        "waits for data": "" if wait is None else f"{wait:.1%}",
        "over the reference": "" if ratio is None else f"x {ratio:.2f}",
    }


def _notes(rows: Sequence[Mapping]) -> str:
    noted = [f"- {row['case']} {row['variant']}: {row['note']}\n" for row in rows if row["note"]]
    return "\n" + "".join(noted) if noted else ""
