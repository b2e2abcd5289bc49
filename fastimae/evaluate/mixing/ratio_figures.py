"""The figures of fastimae-eval reconstruct: pictures and quality over ratios.

H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fastimae.evaluate.mixing.reconstruction import Reconstruction
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import plain_style, plt, save_figure

Ratios = tuple[float, float | None]
"""The ratios of masking and of mixing (None for a MAE)."""
USUAL_MASK, USUAL_MIX = 0.75, 0.3
"""A figure over one ratio is drawn at the usual value of the other."""
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "fsim": "FSIM", "mse": "MSE"}


def draw_all(
    results: Mapping[Ratios, Reconstruction],
    table: Sequence[Mapping[str, Any]],
    picture: Callable[[str], Path],
    images: int,
    note: str,
) -> None:
    """Draw over_mask_ratio.png, quality.png, and for i-MAE over_mix_ratio.png, every_ratio.png.

    picture: file name -> path, see `Results`. images: number of them to draw.
    """
    masks = sorted({mask for mask, _ in results})
    mixes = sorted({mix for _, mix in results if mix is not None})
    mask, mix = _nearest(masks, USUAL_MASK), _nearest(mixes, USUAL_MIX) if mixes else None
    view = (
        f"Mixing ratio s = {mix:g}; every patch as predicted when masked"
        if mixes
        else "Predictions on masked patches, the image itself on visible ones"
    )
    _draw_over_ratios(
        {f"{ratio:.0%} masked": results[ratio, mix] for ratio in masks},
        picture("over_mask_ratio.png"), images, _joined(view, note),
    )  # fmt: skip
    if mixes:
        _draw_over_ratios(
            {f"s = {ratio:g}": results[mask, ratio] for ratio in mixes},
            picture("over_mix_ratio.png"), images,
            _joined(f"s: weight of the subordinate image; {mask:.0%} masked", note),
        )  # fmt: skip
        _draw_every_ratio(results, masks, mixes, picture("every_ratio.png"), note)
    _draw_quality(table, picture("quality.png"), note)


def _draw_over_ratios(
    results: Mapping[str, Reconstruction], path: Path, count: int, note: str
) -> None:
    """Draw a block of rows for each image: the mixture, what was visible, the reconstructions."""
    first = next(iter(results.values()))
    mixed = len(first.truths) > 1
    rows: list[tuple[str, list[Tensor | None]]] = []
    for i in range(min(count, len(first.given))):
        if mixed:
            rows.append(("mixture", [None, *(result.given[i] for result in results.values())]))
        rows.append(("seen", [None, *(result.masked[i] for result in results.values())]))
        for branch, truth in first.truths.items():
            views = [result.whole if mixed else result.pasted for result in results.values()]
            title = branch if mixed else "reconstructed"
            rows.append((title, [truth[i], *(view[branch][i] for view in views)]))
    draw_picture_table(rows, ["truth", *results], path, note)


def _draw_every_ratio(
    results: Mapping[Ratios, Reconstruction],
    masks: Sequence[float],
    mixes: Sequence[float],
    path: Path,
    note: str,
) -> None:
    """Draw the first pair at all ratios: the subordinate image on the left, the dominant right."""
    rows = [
        (
            f"{mask:.0%} masked",
            [results[mask, mix].whole[branch][0] for branch in BRANCHES for mix in mixes],
        )
        for mask in masks
    ]
    first = results[masks[0], mixes[0]]
    truths = [first.truths[branch][0] for branch in BRANCHES]
    gap = [None] * (len(mixes) - 1)
    rows.insert(0, ("truth", [truths[0], *gap, truths[1], *gap]))
    columns = [f"{branch[:3]}., s = {mix:g}" for branch in BRANCHES for mix in mixes]
    draw_picture_table(rows, columns, path, _joined("Every patch as predicted when masked", note))


def _draw_quality(table: Sequence[Mapping[str, Any]], path: Path, note: str) -> None:
    """Draw each measure of whole predictions over masking ratios: a line for each mixing ratio."""
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
        figure.supxlabel(note, fontsize=7, wrap=True)
        save_figure(figure, path)


def _plot_measure(axis: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    mixes = sorted({row["mix_ratio"] for row in rows if "mix_ratio" in row}) or [None]
    colors = plt.get_cmap("viridis")
    for number, mix in enumerate(mixes):
        points = sorted((r["mask_ratio"], r[name]) for r in rows if r.get("mix_ratio") == mix)
        axis.plot(
            *zip(*points, strict=True), marker="o", markersize=3,
            color=colors(0.85 * number / max(len(mixes) - 1, 1)),
            label=None if mix is None else f"s = {mix:g}",
        )  # fmt: skip
    axis.set_title(MEASURES[name])


def _nearest(values: Sequence[float], wanted: float) -> float:
    return min(values, key=lambda value: abs(value - wanted))


def _joined(*lines: str) -> str:
    return "\n".join(line for line in lines if line)
