"""Speeds and the ladder as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


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
