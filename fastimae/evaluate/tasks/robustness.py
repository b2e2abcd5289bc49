"""fastimae-eval robustness: classifiers on ImageNet's variants, as in tables 1 and 4.

Hierarchical paper (arXiv 2306.04898), sections 3.3 and C.5: linear probes that were trained on
ImageNet are tested on ImageNet-v2, ObjectNet, ImageNet-R, ImageNet-A and ImageNet-Sketch, "without
any training". It does not say how answers are restricted; these are the protocols of the sets:

- v2, sketch: the best of all classes.
- r, a: the best of the set's 200 classes, as in the code of its authors.
- objectnet: the best of all classes, of the images in the 113 folders that overlap with ImageNet; a
  class that its mapping names for the folder is a hit. Others restrict the answer to these classes:
  that is `acc1_own`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastimae.engine.distributed import World
from fastimae.evaluate.differences import difference_of, labels_of
from fastimae.evaluate.options.robustness import RobustnessOptions
from fastimae.evaluate.robustness.classifiers import Classifier
from fastimae.evaluate.robustness.figures import draw_accuracies
from fastimae.evaluate.robustness.scoring import Row, score
from fastimae.evaluate.robustness.sets import open_set, right_answers
from fastimae.evaluate.robustness.task import Opened, open_task, save

PICTURE = "robustness.png"
NOTE = "top-1 accuracy (%) of classifiers on sets that they were not trained for"


def run(options: RobustnessOptions) -> None:
    """Test, print the table, and write results.json and robustness.png."""
    with open_task(options, "robustness") as opened:
        table = measure(options, opened.classifiers, opened.world)
        if opened.world.is_main:
            _save(opened, table)


def measure(
    options: RobustnessOptions, classifiers: Sequence[Classifier], world: World
) -> list[Row]:
    """Return a row for each set and classifier; all sets are checked before the first image.

    Raises DataError.
    """
    sets = [
        open_set(name, path, own=options.chooses_among_own(name))
        for name, path in options.places().items()
    ]
    answers = {
        found.name: [right_answers(found, each.names) for each in classifiers] for found in sets
    }
    return [
        row for found in sets
        for row in score(classifiers, answers[found.name], found, options, world)
    ]  # fmt: skip


def summary(table: Sequence[Row]) -> list[Row]:
    """Return a row for each classifier with its top-1 accuracy on each set."""
    rows: dict[str, Row] = {}
    for row in table:
        rows.setdefault(row["classifier"], {"classifier": row["classifier"]})
        rows[row["classifier"]][row["set"]] = row["acc1"]
    return list(rows.values())


def _save(opened: Opened, table: Sequence[Row]) -> None:
    candidates = [classifier.candidate for classifier in opened.classifiers]
    over = difference_of(candidates) if len(candidates) > 1 else None
    picture = opened.results.picture(PICTURE)
    draw_accuracies(table, candidates, labels_of(candidates), over, picture, NOTE)
    numbers = [
        {f"{row['set']}_acc1": row["acc1"] for row in table if row["classifier"] == each.name}
        for each in candidates
    ]
    save(opened, numbers, summary(table), table, NOTE)
