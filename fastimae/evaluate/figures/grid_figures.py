"""Figures of reconstructions over ratios: see `fastimae.evaluate.figures.grids`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fastimae.evaluate.figures.picture_table import draw_picture_table
from fastimae.evaluate.figures.plots import plain_style, plt, save_figure

if TYPE_CHECKING:
    from fastimae.evaluate.figures.grids import Ratios, Reconstruction

USUAL_MASK, USUAL_MIX = 0.75, 0.3
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "fsim": "FSIM", "mse": "MSE"}


def draw_all(
    shown: Mapping[Ratios, Reconstruction],
    table: Sequence[Mapping[str, Any]],
    folder: Path,
    pictures: int,
    note: str,
) -> list[str]:
    """over_mask_ratio.png and quality.png; for i-MAE also over_mix_ratio.png and every_ratio.png.

    shown: results by (mask ratio, mix ratio). pictures: images to show. Returns the files' names.
    """
    masks = sorted({mask for mask, _ in shown})
    mixes = sorted({mix for _, mix in shown if mix is not None})
    mask, mix = _nearest(masks, USUAL_MASK), _nearest(mixes, USUAL_MIX) if mixes else None
    what = (
        f"Mixing ratio s = {mix:g}; every patch as predicted when masked"
        if mixes
        else "Predictions on masked patches, the image itself on visible ones"
    )
    _draw_line(
        {f"{ratio:.0%} masked": shown[ratio, mix] for ratio in masks},
        folder / "over_mask_ratio.png", pictures, _joined(what, note),
    )  # fmt: skip
    if mixes:
        _draw_line(
            {f"s = {ratio:g}": shown[mask, ratio] for ratio in mixes},
            folder / "over_mix_ratio.png", pictures,
            _joined(f"s: weight of the subordinate image; {mask:.0%} masked", note),
        )  # fmt: skip
        _draw_every_ratio(shown, masks, mixes, folder / "every_ratio.png", note)
    _draw_quality(table, folder / "quality.png", note)
    of_mixing = ["over_mix_ratio.png", "every_ratio.png"] if mixes else []
    return ["over_mask_ratio.png", *of_mixing, "quality.png"]


def _draw_line(results: Mapping[str, Reconstruction], path: Path, count: int, note: str) -> None:
    """For each image a block of rows: what was given, what was seen, what came out."""
    first = next(iter(results.values()))
    mixed = len(first.truths) > 1
    rows: list[tuple[str, list[Tensor | None]]] = []
    for i in range(min(count, len(first.given))):
        if mixed:
            rows.append(("mixture", [None, *(result.given[i] for result in results.values())]))
        rows.append(("seen", [None, *(result.masked[i] for result in results.values())]))
        for branch, truth in first.truths.items():
            made = [
                (result.whole if mixed else result.pasted)[branch][i] for result in results.values()
            ]
            rows.append((branch if mixed else "reconstructed", [truth[i], *made]))
    draw_picture_table(rows, ["truth", *results], path, note)


def _draw_every_ratio(
    shown: Mapping[Ratios, Reconstruction],
    masks: Sequence[float],
    mixes: Sequence[float],
    path: Path,
    note: str,
) -> None:
    """The first image: subordinate reconstructions on the left, dominant ones on the right."""
    rows = [
        (
            f"{mask:.0%} masked",
            [shown[mask, mix].whole[branch][0] for branch in _BRANCHES for mix in mixes],
        )
        for mask in masks
    ]
    first = shown[masks[0], mixes[0]]
    truths = [first.truths[branch][0] for branch in _BRANCHES]
    gap = [None] * (len(mixes) - 1)
    rows.insert(0, ("truth", [truths[0], *gap, truths[1], *gap]))
    columns = [f"{branch[:3]}., s = {mix:g}" for branch in _BRANCHES for mix in mixes]
    draw_picture_table(rows, columns, path, _joined("Every patch as predicted when masked", note))


def _draw_quality(table: Sequence[Mapping[str, Any]], path: Path, note: str) -> None:
    """Each measure of whole predictions over the masking ratio, a line a mixing ratio."""
    rows = [row for row in table if row["view"] == "whole"]
    branches = list(dict.fromkeys(row["branch"] for row in rows))
    names = [name for name in MEASURES if name in rows[0]]
    with plain_style():
        figure, axes = plt.subplots(
            len(branches), len(names), squeeze=False, layout="constrained",
            figsize=(3 * len(names), 2.6 * len(branches) + 0.3),
        )  # fmt: skip
        for line, branch in zip(axes, branches, strict=True):
            line[0].set_ylabel(branch)
            for axis, name in zip(line, names, strict=True):
                _plot_measure(axis, [row for row in rows if row["branch"] == branch], name)
        for axis in axes[-1]:
            axis.set_xlabel("masking ratio")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside right upper")
        figure.supxlabel(note, fontsize=7)
        save_figure(figure, path)


def _plot_measure(axis: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    mixes = sorted({row["mix_ratio"] for row in rows if "mix_ratio" in row}) or [None]
    colors = plt.get_cmap("viridis")
    for place, mix in enumerate(mixes):
        points = sorted((r["mask_ratio"], r[name]) for r in rows if r.get("mix_ratio") == mix)
        axis.plot(
            *zip(*points, strict=True), marker="o", markersize=3,
            color=colors(0.85 * place / max(len(mixes) - 1, 1)),
            label=None if mix is None else f"s = {mix:g}",
        )  # fmt: skip
    axis.set_title(MEASURES[name])


_BRANCHES = ("subordinate", "dominant")


def _nearest(values: Sequence[float], wanted: float) -> float:
    return min(values, key=lambda value: abs(value - wanted))


def _joined(*lines: str) -> str:
    return "\n".join(line for line in lines if line)
