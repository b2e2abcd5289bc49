"""Tables of the results, and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gemm import square_line
from benchmarks.harness import number, page, table
from benchmarks.plots import bar_panels
from benchmarks.rungs import FP8, PAIRS

NO_FP8 = f"\n- {FP8}: not measured; it needs torchao and a GPU of 8.9 or later\n"


def markdown(report: Mapping) -> str:
    """Make the page of a report."""
    parts = [square_line(report["gemm"], "MFU is against the higher.")]
    if report["results"]:
        parts += ["## Steps\n", step_table(report["results"])]
    for case in dict.fromkeys(row["case"] for row in report["ladder"]):
        rows = [row for row in report["ladder"] if row["case"] == case]
        parts += [f"## Ladder of {case}, batch {rows[0]['batch_size']}\n", ladder_table(rows)]
    return page(report, *parts)


def step_table(rows: Sequence[Mapping]) -> str:
    """Make a row for each variant of each case."""
    return table([_step(row) for row in rows]) + _notes(rows)


def ladder_table(rows: Sequence[Mapping]) -> str:
    """Make a row for each rung of one case, with its gain over the one before; and notes."""
    before = [rows[0], *rows[:-1]]
    made = table(
        [
            {
                "each with all above it": row["variant"],
                "img/s": number(row["img_per_s"]),
                "ms": number(row["ms"]),
                "20..80 %": f"{number(row['ms_20'])}..{number(row['ms_80'])}",
                "gain": f"x {row['img_per_s'] / last['img_per_s']:.2f}",
                "over the reference": _times(row["x_reference"]),
            }
            for row, last in zip(rows, before, strict=True)
        ]
    )
    names = {row["variant"] for row in rows}
    return made + _notes(rows) + (NO_FP8 if PAIRS in names and FP8 not in names else "")


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"x {ratio:.2f}"


def _step(row: Mapping) -> dict[str, object]:
    spread = f"{number(row['ms_20'])}..{number(row['ms_80'])}" if "ms_20" in row else ""
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
        "over the reference": _times(row["x_reference"]),
    }


def _notes(rows: Sequence[Mapping]) -> str:
    noted = [f"- {row['case']} {row['variant']}: {row['note']}\n" for row in rows if row["note"]]
    return "\n" + "".join(noted) if noted else ""


def train_table(report: Mapping) -> str:
    """Make a row for each case: images per second of each variant, and our speed over theirs."""
    made_up = [row for row in report["results"] if row["data"] == "synthetic"]
    by_case: dict[str, dict[str, Mapping]] = {}
    for row in made_up:
        by_case.setdefault(row["case"], {})[row["variant"]] = row
    variants = list(dict.fromkeys(row["variant"] for row in made_up))
    measured = {case: by for case, by in by_case.items() if "fastimae" in by}  # others were cut off
    return table([_train_row(case, by, variants) for case, by in measured.items()])


def _train_row(case: str, by: Mapping[str, Mapping], variants: Sequence[str]) -> dict[str, object]:
    """Make the row of a case. by: its measured rows, by variant."""
    ours, speeds = by["fastimae"], {name: row["img_per_s"] for name, row in by.items()}
    ratios = {name: ours["img_per_s"] / speed for name, speed in speeds.items()}
    return {
        "case": case,
        "batch": ours["batch_size"],
        **{name: number(speeds.get(name)) for name in variants},
        **{
            f"over {name}": f"{ratios[name]:.2f}" if name in ratios else ""
            for name in variants
            if name != "fastimae"
        },
        "MFU": f"{ours['mfu']:.0%}",
    }


def fed_table(report: Mapping) -> str:
    """Make a row for each step that was fed by a loader."""
    return step_table([row for row in report["results"] if row["data"] != "synthetic"])


def ladders(report: Mapping) -> str:
    """Make the table of each case that has a ladder."""
    cases = dict.fromkeys(row["case"] for row in report["ladder"])
    parts = [
        ladder_table([row for row in report["ladder"] if row["case"] == case]) for case in cases
    ]
    if len(parts) == 1:
        return parts[0]
    return "\n".join(f"{case}:\n\n{part}" for case, part in zip(cases, parts, strict=True))


def train_tables(report: Mapping) -> str:
    """Make the table of all steps, and of each ladder."""
    made = {"results": lambda report: step_table(report["results"]), "ladder": ladders}
    return "\n".join(make(report) for key, make in made.items() if report[key])


def curve_line(report: Mapping) -> str:
    """Describe how far our loss is from the plain pipeline's."""
    steps, last = len(report["curve"]["fastimae"]), {k: v[-1] for k, v in report["curve"].items()}
    return (
        f"{report['case']} on {report['data']}: after {steps} steps the loss is "
        f"{last['fastimae']:.4g}, the plain pipeline's {last['reference']:.4g}; the curves are "
        f"{report['difference']:.2%} apart on average.\n"
    )


def plot(report: Mapping, path: Path) -> None:
    """Draw a panel for each case of the table, and one for each ladder."""
    made_up = [row for row in report["results"] if row["data"] == "synthetic"]
    panels = {
        f"{title}{case}": {row["variant"]: row["img_per_s"] for row in rows if row["case"] == case}
        for title, rows in (("", made_up), ("ladder: ", report["ladder"]))
        for case in dict.fromkeys(row["case"] for row in rows)
    }
    bar_panels(path, report["device"], "images / s (i-MAE: mixtures / s)", panels)
