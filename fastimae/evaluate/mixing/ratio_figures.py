"""The figures of fastimae-eval reconstruct of one model: pictures and quality over ratios.

H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fastimae.evaluate.mixing.reconstruction import ONE_HEAD, UNMASKED, Reconstruction
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import joined, plain_style, plt, save_figure

Ratios = tuple[float, float | None]
"""The ratios of masking and of mixing (None for clean images)."""
USUAL_MASK, USUAL_MIX = 0.75, 0.3
"""A figure over one ratio is drawn at the usual value of the other."""
MEASURES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "fsim": "FSIM", "mse": "MSE"}
WHOLE_NOTE = "every patch as predicted when masked"
PASTED_NOTE = "predictions on masked patches, the image itself on visible ones"
UNMASKED_NOTE = "unmasked: every patch as predicted from the whole image"


def draw_all(
    results: Mapping[Ratios, Reconstruction],
    table: Sequence[Mapping[str, Any]],
    picture: Callable[[str], Path],
    images: int,
    note: str,
) -> None:
    """Draw over_mask_ratio.png, quality.png, and of mixtures over_mix_ratio.png, every_ratio.png.

    picture: file name -> path, see `Results`. images: number of them to draw.
    """
    masks = sorted({mask for mask, _ in results})
    mixes = sorted({mix for _, mix in results if mix is not None})
    mask, mix = nearest(masks, USUAL_MASK), nearest(mixes, USUAL_MIX) if mixes else None
    mixing = f"mixing ratio s = {mix:g}" if mixes else ""
    _draw_over_ratios(
        {titled(ratio): results[ratio, mix] for ratio in masks},
        picture("over_mask_ratio.png"), images,
        joined(sentence(mixing, note_of_views(masks, mixed=bool(mixes))), note),
    )  # fmt: skip
    if mixes:
        _draw_over_ratios(
            {f"s = {ratio:g}": results[mask, ratio] for ratio in mixes},
            picture("over_mix_ratio.png"), images,
            joined(f"s: weight of the subordinate image; {titled(mask)}", note),
        )  # fmt: skip
        _draw_every_ratio(results, masks, mixes, picture("every_ratio.png"), note)
    if len(results) > 1:
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
        views = [result.best("whole" if mixed else "pasted") for result in results.values()]
        for branch, truth in first.truths.items():
            own = branch in first.branches
            shown = [view[branch][i] if own else None for view in views]
            title = branch if branch in BRANCHES else "reconstructed"
            rows.append((title, [None if branch == ONE_HEAD else truth[i], *shown]))
    draw_picture_table(rows, ["truth", *results], path, note)


def _draw_every_ratio(
    results: Mapping[Ratios, Reconstruction],
    masks: Sequence[float],
    mixes: Sequence[float],
    path: Path,
    note: str,
) -> None:
    """Draw the first pair at all ratios: the subordinate image on the left, the dominant right."""
    first = results[masks[0], mixes[0]]
    rows: list[tuple[str, list[Tensor | None]]] = [
        (
            titled(mask),
            [
                results[mask, mix].best("whole")[branch][0]
                for branch in first.branches for mix in mixes
            ],
        )
        for mask in masks
    ]  # fmt: skip
    gap: list[Tensor | None] = [None] * (len(mixes) - 1)
    if first.branches == BRANCHES:
        subordinate, dominant = (first.truths[branch][0] for branch in BRANCHES)
        rows.insert(0, ("truth", [subordinate, *gap, dominant, *gap]))
    else:  # one picture: of both images, or of one
        rows[:0] = [(branch, [first.truths[branch][0], *gap]) for branch in BRANCHES]
    columns = [f"{branch[:3]}., s = {mix:g}" for branch in first.branches for mix in mixes]
    views = sentence(note_of_views(masks, mixed=True))
    draw_picture_table(rows, columns, path, joined(views, note))


def _draw_quality(table: Sequence[Mapping[str, Any]], path: Path, note: str) -> None:
    """Draw each measure of whole predictions over masking ratios: a line for each mixing ratio.

    What is predicted where nothing is masked is a circle by itself: it is another task.
    """
    rows = [row for row in table if row["view"] in ("whole", UNMASKED)]
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
        points = sorted((r["masked"], r[name]) for r in rows if r.get("mix_ratio") == mix)
        color = colors(0.85 * number / max(len(mixes) - 1, 1))
        label = None if mix is None else f"s = {mix:g}"
        plot_over_masks(axis, points, color=color, label=label)
    axis.set_title(MEASURES[name])


def plot_over_masks(axis: Any, points: Sequence[tuple[float, float]], **style: Any) -> None:
    """Draw a line over masking ratios, and a circle where nothing is masked.

    points: (ratio, measure), sorted.
    """
    line = [point for point in points if point[0] > 0]
    for part, marker in ((line, "."), (points[: len(points) - len(line)], "o")):
        if part:
            axis.plot(*zip(*part, strict=True), marker=marker, markersize=6, **style)
            style["label"] = None


def titled(mask_ratio: float) -> str:
    """Return what figures say of a masking ratio."""
    return f"{100 * mask_ratio:.4g}% masked" if mask_ratio else UNMASKED


def note_of_views(mask_ratios: Sequence[float], *, mixed: bool) -> str:
    """Return how pictures at these masking ratios are to be read."""
    masked = (WHOLE_NOTE if mixed else PASTED_NOTE) if any(mask_ratios) else ""
    return "; ".join(filter(None, (masked, "" if all(mask_ratios) else UNMASKED_NOTE)))


def nearest(values: Sequence[float], wanted: float) -> float:
    """Return the value that is nearest to the wanted one."""
    return min(values, key=lambda value: abs(value - wanted))


def sentence(*parts: str) -> str:
    """Return the parts that are not empty as one line that begins with a capital."""
    line = "; ".join(filter(None, parts))
    return line[:1].upper() + line[1:]
