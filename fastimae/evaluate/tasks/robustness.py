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
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.robustness import RobustnessOptions
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import Results, open_results
from fastimae.evaluate.robustness.classifiers import Classifier, load_classifiers
from fastimae.evaluate.robustness.figures import draw_accuracies
from fastimae.evaluate.robustness.scoring import Row, score
from fastimae.evaluate.robustness.sets import open_set, right_answers
from fastimae.loaders.images.limits import set_max_pixels
from fastimae.log import log

PICTURE = "robustness.png"
NOTE = "top-1 accuracy (%) of classifiers on sets that they were not trained for"


def run(options: RobustnessOptions) -> None:
    """Test, print the table, and write results.json and robustness.png."""
    options.check_files()
    with (
        joined_processes(options) as world,
        open_results(options, "robustness", world=world) as results,
    ):
        classifiers = load_classifiers(options, world.device)
        table = measure(options, classifiers, world)
        if world.is_main:
            _save(options, classifiers, table, results)


def measure(
    options: RobustnessOptions, classifiers: Sequence[Classifier], world: World
) -> list[Row]:
    """Return a row for each set and classifier; all sets are checked before the first image.

    Raises DataError.
    """
    set_max_pixels(options.max_pixels)
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


def _save(
    options: RobustnessOptions,
    classifiers: Sequence[Classifier],
    table: Sequence[Row],
    results: Results,
) -> None:
    candidates = [classifier.candidate for classifier in classifiers]
    over = difference_of(candidates) if len(candidates) > 1 else None
    labels = labels_of(candidates)
    draw_accuracies(table, candidates, labels, over, results.picture(PICTURE), NOTE)
    first = {
        f"{row['set']}_acc1": row["acc1"] for row in table
        if row["classifier"] == classifiers[0].name
    }  # fmt: skip
    rows = summary(table)
    path = results.save(
        {**first, "summary": rows, "table": list(table)}, origin=classifiers[0].origin
    )
    print(f"{NOTE}\n\n{markdown(rows)}\n\n{markdown(table)}")
    log.info("%s and %s beside it", path, PICTURE)
