"""What was measured, for people: tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gemm import square_line
from benchmarks.harness import failures, heading, number, table


def markdown(report: Mapping) -> str:
    """The whole report."""
    parts = [heading(report), square_line(report["gemm"], "MFU is against the higher.")]
    if report["results"]:
        parts += ["## Steps\n", step_table(report["results"])]
    for case in dict.fromkeys(row["case"] for row in report["ladder"]):
        rows = [row for row in report["ladder"] if row["case"] == case]
        parts += [f"## Ladder of {case}, batch {rows[0]['batch_size']}\n", ladder_table(rows)]
    return "\n".join(parts + failures(report))


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


def _step(row: Mapping) -> dict[str, object]:
    spread = f"{number(row['ms_20'])}..{number(row['ms_80'])}" if "ms_20" in row else ""
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
        "waits for data": number(row.get("data_wait"), ".1%"),
        "over the reference": "" if ratio is None else f"x {ratio:.2f}",
    }


def _notes(rows: Sequence[Mapping]) -> str:
    noted = [f"- {row['case']} {row['variant']}: {row['note']}\n" for row in rows if row["note"]]
    return "\n" + "".join(noted) if noted else ""


def plot(report: Mapping, path: Path) -> None:
    """Draw a panel for each case of the table and one for each ladder."""
    from matplotlib.figure import Figure

    made_up = [row for row in report["results"] if row["data"] == "synthetic"]
    panels = {
        f"{title}{name}": [row for row in rows if row["case"] == name]
        for title, rows in (("", made_up), ("ladder: ", report["ladder"]))
        for name in dict.fromkeys(row["case"] for row in rows)
    }
    if not panels:
        return
    heights = [len(rows) + 1.5 for rows in panels.values()]
    figure = Figure(figsize=(9, 0.36 * sum(heights) + 0.8), layout="constrained")
    figure.suptitle(report["device"])
    axes = figure.subplots(len(panels), height_ratios=heights, squeeze=False)[:, 0]
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        names, speeds = [row["variant"] for row in rows], [row["img_per_s"] for row in rows]
        bars = axis.barh(names, speeds, color="tab:blue")
        axis.bar_label(bars, [f"{speed:.3g}" for speed in speeds], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.set_title(title, loc="left", fontsize="medium")
    axes[-1].set_xlabel("images / s (i-MAE: mixtures / s)")
    figure.savefig(path, dpi=110)
