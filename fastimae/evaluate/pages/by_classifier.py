"""Give each run the numbers of its own classifiers, where one result is of several.

robustness and shapebias test any classifiers at once, and write one result, in the folder of the
first. Where runs are side by side, each has the numbers of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fastimae.engine.checkpoint_file import WEIGHTS
from fastimae.evaluate.pages.checkpoint_match import CheckpointMatch, Checkpoints, match_checkpoint
from fastimae.evaluate.pages.evaluations import Evaluation
from fastimae.evaluate.pages.runs import RunRecord
from fastimae.evaluate.result_files import CLASSIFIERS


def by_classifier(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs, each with its own classifiers' part of all results in their folders.

    Whose a classifier is follows from the digest of its weights, or from the run's id. records:
    those whose folders are read. Where a run's own folder has the same number, that comes last.
    Results of earlier versions, which do not say whose weights they are of, stay as they are.
    """
    found = []
    for record in records:
        checkpoints = Checkpoints(record.folder)
        others = (
            item for other in records if other is not record
            for item in (*other.evaluations, *other.left_out)
        )  # fmt: skip
        parts = [
            part for item in (*others, *record.left_out) for part in _of_run(item, checkpoints)
        ]
        for item in record.evaluations:
            parts += _of_run(item, checkpoints, owned=True) or [item]
        found.append(dataclasses.replace(record, evaluations=tuple(parts)))
    return found


def _of_run(item: Evaluation, checkpoints: Checkpoints, owned: bool = False) -> list[Evaluation]:
    """Return the parts of a result that are of a run's classifiers.

    owned: the result is the run's, and so is its first classifier.
    """
    found: list[Evaluation] = []
    for part in _parts(item):
        if not owned or found:
            match = _match(part, checkpoints)
            if match is None:
                continue
            part = dataclasses.replace(part, match=match, pictures=())
        name = _name(item, part, [each.name for each in found])
        found.append(dataclasses.replace(part, name=name))
    return found


def _parts(item: Evaluation) -> Iterator[Evaluation]:
    """Split a result by classifier; nothing for one of another task, or of an earlier version."""
    kept = {key: value for key, value in item.content.items() if key != CLASSIFIERS}
    for one in item.content.get(CLASSIFIERS, ()):
        table = [
            {key: value for key, value in row.items() if key != "classifier"}
            for row in item.numbers.get("table", ())
            if row["classifier"] == one["classifier"]
        ]
        numbers = {**one["numbers"], "table": table}
        content = {**kept, **one, "checkpoint": one["file"], "numbers": numbers}
        yield dataclasses.replace(item, content=content)


def _match(part: Evaluation, checkpoints: Checkpoints) -> CheckpointMatch | None:
    """Return how a part is of a run's weights; None unless it is known to be."""
    newest = checkpoints.newest
    if newest is None or not checkpoints.read(newest) or not part.content.get(WEIGHTS):
        return None
    match = match_checkpoint(part.content, checkpoints)
    return match if match.belongs else None


def _name(item: Evaluation, part: Evaluation, taken: Collection[str]) -> str:
    """Name a part as its result if it is a run's first of the result's first kind of classifier.

    So that numbers in one column are of one kind. Others are called by their folders.
    """
    same_kind = part.content["kind"] == item.content[CLASSIFIERS][0]["kind"]
    folder = Path(part.content["file"]).resolve().parent.name
    names = ([item.name] if same_kind else []) + [f"{item.name} ({folder})"]
    spare = f"{item.name} ({part.content['classifier']})"
    return next((name for name in names if name not in taken), spare)
