"""fastimae-eval shapebias: shape accuracy and shape bias on cue-conflict stimuli.

Hierarchical paper (arXiv 2306.04898), table 2 and section C.6: linear probes that were trained on
ImageNet see 1,280 images with the shape of one category and the texture of another (Geirhos et al.,
2019). Two figures, which are not the same:

- `shape_accuracy` is the paper's, by C.6: "the fraction of images predicted correctly by their
  shape". It is of all images, so those of 80 whose shape and texture are of one category count.
- `shape_bias` is the usual one: among decisions for the shape's or the texture's category, the
  share of shape. Images whose shape and texture are of one category tell nothing and are left out,
  so that 1,200 remain.

A decision is the category with the largest mean of the probabilities of its classes, which are the
softmax over all 1,000.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.engine.distributed import World
from fastimae.evaluate.differences import labels_of
from fastimae.evaluate.options.robustness import ClassifierOptions, ShapebiasOptions
from fastimae.evaluate.robustness.classifiers import FLAG, Classifier
from fastimae.evaluate.robustness.cue_conflicts import (
    UNREAD,
    CueConflicts,
    by_category,
    decisions,
    measures,
    members,
    open_cue_conflicts,
)
from fastimae.evaluate.robustness.scoring import Shown, groups_of
from fastimae.evaluate.robustness.shape_figures import draw_shape_bias
from fastimae.evaluate.robustness.task import Opened, open_task, save
from fastimae.loaders.errors import DataError

PICTURE = "shapebias.png"
NOTE = "shape bias: decisions for the shape, of those for the shape or the texture"


def run(options: ShapebiasOptions) -> None:
    """Measure, print the table, and write results.json and shapebias.png."""
    with open_task(options, "shapebias") as opened:
        stimuli = open_cue_conflicts(options.data)
        decided = decide(opened.classifiers, stimuli, options, opened.world)
        if all((each == UNREAD).all() for each in decided):
            raise DataError(f"--data {options.data}: no image can be read")
        if opened.world.is_main:
            _save(opened, stimuli, decided)


def decide(
    classifiers: Sequence[Classifier],
    stimuli: CueConflicts,
    options: ClassifierOptions,
    world: World,
) -> list[NDArray[np.int64]]:
    """Return each classifier's decision on each image, the same on all ranks.

    A decision is a position in `categories()`, or UNREAD. Raises DataError for a classifier that
    does not know the classes of all categories.
    """
    shares = [
        members(each.names, f"{FLAG} {each.candidate.path}").to(world.device)
        for each in classifiers
    ]
    total = torch.zeros(
        len(classifiers), len(stimuli.images), dtype=torch.float64, device=world.device
    )
    for group in groups_of(classifiers):
        batches = Shown(stimuli.images, classifiers[group[0]], options, world, "cue conflicts")
        for pixels_BHWC, index_B in batches:
            for number in group:
                found_B = decisions(classifiers[number].logits(pixels_BHWC), shares[number])
                total[number, index_B] = (found_B - UNREAD).double()
    # Each image is one rank's: the others have zeros for it, as for one that cannot be read.
    numbers = (world.mean(total) * world.size).round().long() + UNREAD
    return list(numbers.cpu().numpy())


def _save(opened: Opened, stimuli: CueConflicts, decided: Sequence[NDArray[np.int64]]) -> None:
    numbers, table = [], []
    for classifier, decided_N in zip(opened.classifiers, decided, strict=True):
        found = measures(decided_N, stimuli.shape_N, stimuli.texture_N)
        numbers.append({**found, "bad_images": int((decided_N == UNREAD).sum())})
        rows = by_category(decided_N, stimuli)
        table += [{"classifier": classifier.name, **row} for row in rows]
    labels = labels_of([classifier.candidate for classifier in opened.classifiers])
    labels = [label.replace("\n", ", ") for label in labels]
    means = {label: found["shape_bias"] for label, found in zip(labels, numbers, strict=True)}
    draw_shape_bias(table, means, opened.results.picture(PICTURE), NOTE)
    names = (classifier.name for classifier in opened.classifiers)
    summary = [{"classifier": name, **found} for name, found in zip(names, numbers, strict=True)]
    save(opened, numbers, summary, table, NOTE)
