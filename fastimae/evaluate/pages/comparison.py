"""Tables of several runs with a column for each: settings, losses, and numbers of evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint_file import RUN
from fastimae.evaluate.pages.evaluations import Evaluation
from fastimae.evaluate.pages.page import PictureRow
from fastimae.evaluate.pages.runs import RunRecord
from fastimae.evaluate.pages.starts import facts_of
from fastimae.evaluate.pages.tables import all_keys
from fastimae.evaluate.pages.titles import in_order, title_of
from fastimae.evaluate.result_files import FORMERLY

Row = dict[str, Any]
_NOT_COMPARED = (
    RUN, "output_dir", "log_dir", "resume", "config", "print_config", "debug", "device",
    "num_workers", "dist_url", "local_rank", "wandb",
)  # fmt: skip
"""Settings that say where and how a run was started, not what it computed."""
_ROW_NUMBERS = ("layer", "rows")
"""Numbers in a table that name its rows, besides those that end in _ratio."""


def tables_of(records: Sequence[RunRecord]) -> dict[str, list[Row]]:
    """Return tables by name, each with a column for each run."""
    names = [record.name for record in records]
    numbers, details = zip(*map(evaluation_numbers, records), strict=True)
    facts = [facts_of(record.starts, record.folder) for record in records]
    return {
        "settings": differing([record.settings for record in records], names),
        "losses": aligned([record.last_losses for record in records], names),
        "probes": aligned([record.last_probes for record in records], names),
        "numbers": aligned(numbers, names),
        "details": aligned(details, names),
        "notes": aligned([notes(record) for record in records], names),
        "machines": aligned(facts, names),
    }


def notes(record: RunRecord) -> Row:
    """Return why evaluations are not of the run's newest weights, or may not be."""
    included = {item.name: item.match.note for item in record.evaluations if item.match.note}
    return included | {item.name: f"left out: {item.match.note}" for item in record.left_out}


def differing(settings: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return the rows of `aligned` that are not the same in all runs whose settings are known."""
    known = _known(settings, names)
    return [row for row in aligned(_compared(settings), names) if not _is_same(row, known)]


def common(settings: Sequence[Row], names: Sequence[str]) -> Row:
    """Return the settings that are the same in all runs whose settings are known."""
    known = _known(settings, names)
    rows = [row for row in aligned(_compared(settings), names) if _is_same(row, known)]
    return {row[""]: row[known[0]] for row in rows}


def aligned(values: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return a row for each key, in order of first appearance; None where a run lacks the key."""
    return [
        {"": key, **{name: run.get(key) for name, run in zip(names, values, strict=True)}}
        for key in all_keys(values)
    ]


def evaluation_numbers(record: RunRecord) -> tuple[Row, Row]:
    """Return all evaluations' single numbers, and those in their tables, by evaluation and row."""
    numbers, details = {}, {}
    for item in record.evaluations:
        for key, value in item.scalars.items():
            if not isinstance(value, str):
                numbers[f"{item.name} {key}"] = value
        for rows in item.tables.values():
            for row in rows:
                labels = ", ".join(_row_labels(row, record.name))
                of_row = f" ({labels})" if labels else ""
                for key, value in row.items():
                    if isinstance(value, float) and not _is_label(key, value):
                        details[f"{item.name} {key}{of_row}"] = value
    return numbers, details


def picture_rows(records: Sequence[RunRecord]) -> list[PictureRow]:
    """Return the pictures of all runs, those of one kind in a row: first those of training."""
    kinds = dict.fromkeys(kind for record in records for kind in _pictures(record))
    return [
        PictureRow(kind, {record.name: _pictures(record).get(kind) for record in records})
        for kind in kinds
    ]


def _pictures(record: RunRecord) -> dict[str, Any]:
    of_training = {f"Training: {path.stem}": path for path in record.pictures}
    return of_training | {
        _kind(item, path): path for item in in_order(record.evaluations) for path in item.pictures
    }


def _kind(item: Evaluation, picture: Path) -> str:
    names = (item.task, item.content.get(FORMERLY))
    name = "" if picture.stem in names else f": {picture.stem.replace('_', ' ')}"
    return f"{title_of(item)}{name}"


def _compared(settings: Sequence[Row]) -> list[Row]:
    return [{k: v for k, v in run.items() if k not in _NOT_COMPARED} for run in settings]


def _known(settings: Sequence[Row], names: Sequence[str]) -> list[str]:
    return [name for name, of_run in zip(names, settings, strict=True) if of_run]


def _is_same(row: Row, names: Sequence[str]) -> bool:
    return all(row[name] == row[names[0]] for name in names)


def _row_labels(row: Row, run: str) -> list[str]:
    """Return what distinguishes a row of a table from the others, without the run's name."""
    return [
        value if isinstance(value, str) else f"{key} {value}"
        for key, value in row.items()
        if _is_label(key, value) and value != run
    ]


def _is_label(key: str, value: Any) -> bool:
    return isinstance(value, str) or key.endswith("_ratio") or key in _ROW_NUMBERS
