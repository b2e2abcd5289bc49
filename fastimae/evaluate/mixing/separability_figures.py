"""The figures of fastimae-eval separability: over mixing ratios, or at the paper's one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import LogLocator, NullFormatter

from fastimae.evaluate.mixing.comparison import Row
from fastimae.pictures.plots import legend_below, lines_of, plain_style, plt, save_figure


def draw(rows: Sequence[Row], path: Path, note: str) -> None:
    """Draw the table's distances. note: what they are, above them."""
    if "mse_after_held_out" in rows[0]:
        _draw_one_ratio(rows, path, note)
    else:
        _draw_over_ratios(rows, path, note)


def _draw_over_ratios(rows: Sequence[Row], path: Path, note: str) -> None:
    """Draw dashed lines before, solid ones after, and dots for the trained map."""
    with plain_style():
        figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
        for line, color in lines_of(rows):
            x = [row["mix_ratio"] for row in line]
            axes[0].plot(x, [row["mse_before"] for row in line], "--", color=color)
            axes[0].plot(x, [row["mse_after"] for row in line], color=color, label=_label(line[0]))
            axes[0].plot(x, [row["mse_after_trained"] for row in line], ".", color=color)
            axes[1].plot(x, [row["unexplained"] for row in line], color=color)
        axes[0].set(yscale="log", title="before - - -, after —— (trained ···)")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter("{x:g}")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylabel("MSE from the clean latent")
        axes[1].set(title="after, relative to the best constant", ylim=(0, None))
        axes[1].set_ylabel("share unexplained")
        for axis in axes:
            axis.set_xlabel("mixing ratio of the subordinate image")
        figure.suptitle(note, fontsize="small", wrap=True)
        legend_below(figure)
        save_figure(figure, path)


def _draw_one_ratio(rows: Sequence[Row], path: Path, note: str) -> None:
    """Draw a group of bars for each model, with their values."""
    columns = {
        "mse_before": "before", "mse_after": "after", "mse_after_held_out": "after, held out",
    }  # fmt: skip
    with plain_style():
        figure, axis = plt.subplots(figsize=(9, 1.5 + 0.75 * len(rows)), layout="constrained")
        for number, (column, label) in enumerate(columns.items()):
            places = [row + 0.26 * (number - 1) for row in range(len(rows))]
            bars = axis.barh(places, [row[column] for row in rows], height=0.24, label=label)
            axis.bar_label(bars, fmt="%.3g", padding=3, fontsize="small")
        axis.set(xlabel="MSE from the clean latent", ylim=(len(rows) - 0.5, -0.5))
        axis.set_yticks(range(len(rows)), [_label(row) for row in rows])
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.1)
        figure.suptitle(note, fontsize="small", wrap=True)
        legend_below(figure)
        save_figure(figure, path)


def _label(row: Row) -> str:
    name, kind = row["model"], row["kind"]
    return name if kind == name else f"{name} ({kind})"
