"""What robustness and shapebias share: they open classifiers and results, save and print."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fastimae.engine.distributed import World
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.robustness import ClassifierOptions
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.result_files import CLASSIFIERS
from fastimae.evaluate.results import Results, open_results
from fastimae.evaluate.robustness.classifiers import Classifier, load_classifiers
from fastimae.loaders.images.limits import set_max_pixels
from fastimae.log import log

Row = dict[str, Any]


class Opened(NamedTuple):
    """A task that has begun."""

    classifiers: Sequence[Classifier]
    world: World
    results: Results


@contextlib.contextmanager
def open_task(options: ClassifierOptions, task: str) -> Iterator[Opened]:
    """Join the other processes, open the task's results, and load the classifiers.

    options: their files are looked for first. task: its name. Raises CheckpointError, ConfigError,
    DataError and FolderError.
    """
    options.check_files()
    with joined_processes(options) as world, open_results(options, task, world=world) as results:
        set_max_pixels(options.max_pixels)
        yield Opened(load_classifiers(options, world.device), world, results)


def save(
    opened: Opened,
    numbers: Sequence[Mapping[str, Any]],
    summary: Sequence[Row],
    table: Sequence[Row],
    note: str,
) -> None:
    """Write results.json, with the numbers of the first classifier before the tables; print these.

    numbers: of each classifier of `opened`. summary, table: rows with "classifier", its name. note:
    what the numbers are, in words.
    """
    classifiers, results = opened.classifiers, opened.results
    each = [
        {"classifier": one.name, "file": str(one.candidate.path), "kind": one.kind, **one.origin,
         "numbers": dict(found)}
        for one, found in zip(classifiers, numbers, strict=True)
    ]  # fmt: skip
    path = results.save(
        {**numbers[0], "summary": list(summary), "table": list(table)},
        origin={**classifiers[0].origin, CLASSIFIERS: each},
    )
    print(f"{note}\n\n{markdown(summary)}\n\n{markdown(table)}")
    log.info("%s and %s beside it", path, ", ".join(results.pictures))
