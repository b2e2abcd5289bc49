"""Tables of the results, and the plot over threads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import number, page, table
from benchmarks.loaders.registry import LOADERS
from benchmarks.plots import line_plot

STAGES = {
    "read": "read, checksum",
    "entropy": "entropy decoding",
    "pixels": "IDCT, upsampling, colour",
    "resize": "resize",
}
DEMAND = {"mae_vit_base_patch16": 6866, "imae_vit_base_patch16": 3695}
"""Images per second that one H100 needs in pre-training at half of its peak (a model: 58.1 and
108.0 GFLOP per image, at 50 % of 798 TFLOP/s)."""


def markdown(report: Mapping) -> str:
    """Make the page of a report."""
    parts = []
    for section in ("beton", "originals"):
        rows = [row for row in report["results"] + report["originals"] if row["section"] == section]
        if section in report["sets"]:
            parts += _section(report["sets"][section], rows)
    parts += ["## Speed of native over the others\n", table(list(map(_ratio, report["ratios"])))]
    if report["sweep"]:
        parts += ["## Over threads\n", table(sweep_rows(report["sweep"]))]
    parts += _demand(report["results"])
    for name, line in report["missing"].items():
        parts.append(f"- missing: {name}: {line}")
    return page(report, *parts)


def loader_table(report: Mapping) -> str:
    """Make a row for each back end, with its results on the .beton and on original images.

    Raises ValueError for a back end that is not in the registry: it would get no row.
    """
    beton, original = (
        {row["backend"]: row for row in report[key]} for key in ("results", "originals")
    )
    unknown = sorted((beton | original).keys() - LOADERS.keys())
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not in benchmarks/loaders/registry.py")
    return table(
        [
            _summary(name, beton.get(name, {}), original.get(name, {}))
            for name in LOADERS
            if name in beton or name in original
        ]
    )


def _summary(name: str, beton: Mapping, original: Mapping) -> dict[str, str]:
    """Make the row of one back end; what was not measured is empty."""
    spent, difference = beton.get("cpu_seconds_per_img"), beton.get("pixel_mean_abs_diff")
    unknown = "unknown" if beton else ""
    return {
        "back end": f"{name} ({LOADERS[name].label})",
        "img/s, 500 px q90": number(beton.get("img_per_s"), ".0f"),
        "img/s, originals": number(original.get("img_per_s"), ".0f"),
        "CPU us/img": number(spent and 1e6 * spent, ".0f"),
        "ms to the first batch": number(beton.get("first_batch_ms"), ".0f"),
        "memory, MB": number(beton.get("peak_memory_mb"), ".0f"),
        "mean difference from Pillow, of 255": (
            unknown if difference is None else f"{difference:.2g}"
        ),
    }


def _section(facts: Mapping, rows: list[dict]) -> list[str]:
    size = f"{facts['mean_width']:.0f} x {facts['mean_height']:.0f} pixels"
    text = [
        f"## {facts['source']}: {facts['images']} JPEGs, {facts['mean_bytes'] / 1e3:.0f} kB and "
        f"{size} on average\n",
        table([_row(row) for row in rows]),
        *[f"- {row['backend']}: {row['what']}" for row in rows],
        "- first epoch: after the first batch; memory: peak without pages of files (PSS, children "
        "included) above torch alone; difference: from Pillow, of 255\n",
    ]
    for row in rows:
        if row["stages_us_per_img"]:
            text += [f"### {row['backend']}: where the time goes\n", table(_stage_rows(row))]
    return text


def _row(row: Mapping) -> dict[str, object]:
    known = row["pixel_mean_abs_diff"] is not None
    return {
        "back end": row["backend"],
        "img/s": round(row["img_per_s"]),
        "min..max": f"{row['img_per_s_min']:.0f}..{row['img_per_s_max']:.0f}",
        "per core": round(row["img_per_s_per_core"]),
        "first epoch": number(row["img_per_s_first_epoch"], ".0f"),
        "first batch, ms": number(row["first_batch_ms"], ".0f"),
        "CPU us/img": round(1e6 * row["cpu_seconds_per_img"]),
        "memory, MB": number(row["peak_memory_mb"], ".0f"),
        "mean difference": f"{row['pixel_mean_abs_diff']:.3g}" if known else "unknown",
        "unequal pixels": f"{row['pixels_unequal']:.1%}" if known else "unknown",
    }


def _stage_rows(row: Mapping) -> list[dict[str, object]]:
    """Make rows of wall time. On a busy machine threads wait, and it exceeds the CPU time."""
    first, later = row["stages_us_per_img_first_epoch"] or {}, row["stages_us_per_img"]
    whole = sum(later.values())
    rows = [
        {
            "stage": STAGES.get(name, name),
            "us/img of a thread": f"{spent:.1f}",
            "share": f"{spent / whole:.0%}",
            "first epoch": f"{first[name]:.1f}" if name in first else "",
        }
        for name, spent in later.items()
    ]
    totals = {
        "sum": (f"{whole:.1f}", f"{sum(first.values()):.1f}" if first else ""),
        "CPU time of the process": (f"{1e6 * row['cpu_seconds_per_img']:.1f}", ""),
    }
    for name, (spent, once) in totals.items():
        rows.append({"stage": name, "us/img of a thread": spent, "share": "", "first epoch": once})
    return rows


def _ratio(row: Mapping) -> dict[str, object]:
    met = {True: "met", False: "MISSED", None: ""}[row["met"]]
    return {
        "section": row["section"],
        "against": row["against"],
        "times as fast": f"{row['ratio']:.2f}",
        "min..max": f"{row['min']:.2f}..{row['max']:.2f}",
        "less CPU time": f"{row['cpu_ratio']:.2f}",
        "target": "" if row["target"] is None else f"{row['target']:g}",
        "": f"{met} {row['note']}".strip(),
    }


def sweep_rows(sweep: list[dict]) -> list[dict[str, object]]:
    """Make a row for each number of threads, with a column for each loader."""
    names = list(dict.fromkeys(row["backend"] for row in sweep))
    speeds = {(row["num_workers"], row["backend"]): row["img_per_s"] for row in sweep}
    return [
        {"threads": count, **{name: number(speeds.get((count, name)), ".0f") for name in names}}
        for count in sorted({count for count, _ in speeds})
    ]


def _demand(rows: list[dict]) -> list[str]:
    """Compare with what pre-training needs, if images were copied to a GPU."""
    speed = next((row["img_per_s"] for row in rows if row["backend"] == "native_cuda"), math.nan)
    if math.isnan(speed):
        return []
    lines = [
        {"model": name, "img/s of one H100": need, "native_cuda over that": speed / need}
        for name, need in DEMAND.items()
    ]
    return [
        "## Against what pre-training needs (a model, at half of the GPU's peak)\n",
        table(lines),
    ]


def plot_sweep(sweep: list[dict], title: str, path: Path) -> None:
    """Draw a line for each loader, with the range of its rounds."""
    with line_plot(path, title, "threads (torchvision: processes)", "images / s") as axes:
        for name in dict.fromkeys(row["backend"] for row in sweep):
            rows = [row for row in sweep if row["backend"] == name]
            rows.sort(key=lambda row: row["num_workers"])
            threads = [row["num_workers"] for row in rows]
            axes.plot(threads, [row["img_per_s"] for row in rows], marker="o", label=name)
            low, high = ([row[f"img_per_s_{end}"] for row in rows] for end in ("min", "max"))
            axes.fill_between(threads, low, high, alpha=0.15)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row["num_workers"] for row in sweep}))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
