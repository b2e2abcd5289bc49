"""The figures of fastimae-eval reconstruct of several models, side by side.

H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from fastimae.evaluate.mixing.measure_figures import draw_measures, draw_over_ratios, points_of
from fastimae.evaluate.mixing.measurements import Measurements, Setting
from fastimae.evaluate.mixing.ratio_figures import (
    USUAL_MASK,
    USUAL_MIX,
    joined,
    nearest,
    note_of_views,
    titled,
)
from fastimae.evaluate.mixing.reconstruction import Reconstruction
from fastimae.evaluate.mixing.subjects import Subject, difference_of, labels_of
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.picture_table import draw_picture_table


def compare_all(
    subjects: Sequence[Subject],
    measured: Measurements,
    picture: Callable[[str], Path],
    note: str,
) -> None:
    """Draw models.png, measures.png and, over several ratios, quality.png.

    picture: file name -> path, see `Results`. A ratio that a figure is not over has the value that
    is nearest to the usual.
    """
    masks = sorted({setting.mask_ratio for setting in measured.drawn})
    mixes = sorted({setting.mix_ratio for setting in measured.drawn} - {None})
    mask, mix = nearest(masks, USUAL_MASK), nearest(mixes, USUAL_MIX) if mixes else None
    difference, labels = difference_of(subjects), labels_of(subjects)
    shown = [
        measured.drawn[Setting(number, mask, mix if subject.mixed else None)]
        for number, subject in enumerate(subjects)
    ]
    mixing = f"mixing ratio s = {mix:g}" if mixes else ""
    views = note_of_views([mask], mixed=bool(mixes))
    note_of_models = joined("; ".join(filter(None, (titled(mask), mixing, views))), note)
    draw_models(labels, shown, picture("models.png"), note_of_models)
    points = points_of(subjects, measured)
    at_mix = [point for point in points if point.mix_ratio in (None, mix)]
    draw_measures(at_mix, subjects, difference, picture("measures.png"), joined(mixing, note))
    if sum(ratio > 0 for ratio in masks) > 1:
        draw_over_ratios(
            at_mix, labels, picture("quality.png"), joined(mixing, note), of_mixing=False
        )
    elif len(mixes) > 1:
        at_mask = [point for point in points if point.mask_ratio == mask]
        draw_over_ratios(
            at_mask, labels, picture("quality.png"), joined(titled(mask), note), of_mixing=True
        )


def draw_models(
    labels: Sequence[str], results: Sequence[Reconstruction], path: Path, note: str
) -> None:
    """Draw a row for each model: what it saw of each image, and what it made of that."""
    mixed = next((result for result in results if len(result.truths) > 1), None)
    first, branches = mixed or results[0], BRANCHES if mixed else ("image",)
    rows: list[tuple[str, list[Tensor | None]]] = [(label, []) for label in ("truth", *labels)]
    (_, truths), *of_models = rows
    for i in range(len(first.given)):
        truths += [first.given[i] if mixed else None, *(first.truths[name][i] for name in branches)]
        for (_, cells), result in zip(of_models, results, strict=True):
            views = result.best("whole" if mixed else "pasted")
            made = [views[branch][i] for branch in result.branches]
            cells += [result.masked[i], *made, *[None] * (len(branches) - len(made))]
    columns = ["seen", *(branches if mixed else ("reconstructed",))] * len(first.given)
    draw_picture_table(rows, columns, path, note)
