"""The figures of fastimae-eval reconstruct of several models, side by side.

H, W, C = height, width, channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from fastimae.evaluate.differences import difference_of
from fastimae.evaluate.mixing.measure_figures import draw_measures, draw_over_ratios, points_of
from fastimae.evaluate.mixing.measurements import Measurements, Setting
from fastimae.evaluate.mixing.ratio_figures import (
    USUAL_MASK,
    USUAL_MIX,
    nearest,
    note_of_views,
    sentence,
    titled,
)
from fastimae.evaluate.mixing.reconstruction import ONE_HEAD, Reconstruction
from fastimae.evaluate.mixing.subjects import Subject, candidates_in, row_titles
from fastimae.objectives.imae import BRANCHES
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import joined


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
    difference, labels = difference_of(candidates_in(subjects)), row_titles(subjects)
    shown = [
        measured.drawn[Setting(number, mask, mix if subject.mixed else None)]
        for number, subject in enumerate(subjects)
    ]
    mixing = f"mixing ratio s = {mix:g}" if mixes else ""
    one_head = any(result.branches == (ONE_HEAD,) for result in shown)
    line = sentence(
        titled(mask) if mask else "",
        mixing,
        note_of_views([mask], mixed=bool(mixes)),
        "a model with one head makes one picture of both images" if one_head else "",
    )
    draw_models(labels, shown, picture("models.png"), joined(line, note))
    points = points_of(subjects, measured)
    at_mix = [point for point in points if point.mix_ratio in (None, mix)]
    of_measures = joined(sentence(mixing), note)
    draw_measures(at_mix, subjects, difference, picture("measures.png"), of_measures)
    if sum(ratio > 0 for ratio in masks) > 1:
        line = sentence(mixing, "circles: unmasked" if 0 in masks else "")
        path = picture("quality.png")
        draw_over_ratios(at_mix, labels, path, joined(line, note), of_mixing=False)
    elif len(mixes) > 1:
        at_mask = [point for point in points if point.mask_ratio == mask]
        line, path = sentence(titled(mask)), picture("quality.png")
        draw_over_ratios(at_mask, labels, path, joined(line, note), of_mixing=True)


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
            # The only picture of a model with one head stands with the subordinate image.
            made = {
                name if name in branches else branches[0]: views[name][i]
                for name in result.branches
            }
            cells += [result.masked[i], *map(made.get, branches)]
    columns = ["seen", *(branches if mixed else ("reconstructed",))] * len(first.given)
    draw_picture_table(rows, columns, path, note)
