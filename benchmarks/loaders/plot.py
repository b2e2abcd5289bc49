"""Images a second over threads as a picture."""

from __future__ import annotations

from pathlib import Path


def plot_sweep(sweep: list[dict], title: str, path: Path) -> None:
    """Draw one line for each contestant, with the range of its rounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["backend"] for row in sweep):
        rows = sorted(
            (row for row in sweep if row["backend"] == name), key=lambda row: row["num_workers"]
        )
        threads = [row["num_workers"] for row in rows]
        axes.plot(threads, [row["img_per_s"] for row in rows], marker="o", label=name)
        low, high = ([row[f"img_per_s_{end}"] for row in rows] for end in ("min", "max"))
        axes.fill_between(threads, low, high, alpha=0.15)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({row["num_workers"] for row in sweep}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set(xlabel="threads (torchvision: processes)", ylabel="images / s", title=title)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
