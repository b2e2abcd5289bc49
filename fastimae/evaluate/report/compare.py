"""Several runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastimae import __version__
from fastimae.engine.claim import claimed
from fastimae.engine.files import RUN
from fastimae.evaluate.checkpoints import names_of
from fastimae.evaluate.report.page_parts import document, table
from fastimae.evaluate.report.runs import Run, check_folder, last_losses, read_run, scalars, tables
from fastimae.evaluate.report.svg import line_chart
from fastimae.evaluate.report.tables import markdown
from fastimae.folders import write_text
from fastimae.log import log
from fastimae.settings import ConfigError, Settings

Row = dict[str, Any]
PLACES = (RUN, "output_dir", "log_dir", "resume", "config", "print_config", "debug", "device",
          "num_workers", "dist_url", "local_rank")  # fmt: skip
"""Settings that say where a run was, not what it did."""
_WHICH = ("layer", "rows")


@dataclasses.dataclass(kw_only=True)
class CompareOptions(Settings):
    """Several runs in one table: settings that differ, last losses, numbers of evaluations."""

    runs: tyro.conf.Positional[tuple[Annotated[Path, tyro.conf.arg(metavar="RUN")], ...]]
    """Folders that fastimae-train wrote."""
    output_dir: Path = Path("comparison")
    """For compare.json and compare.html."""
    all: bool = False
    """Print the rows of evaluations' tables, too (they are in both files anyway)."""
    debug: bool = False
    """Show tracebacks."""


def run(options: CompareOptions) -> None:
    """Print Markdown tables; write compare.json and compare.html."""
    if len(options.runs) < 2:
        raise ConfigError("give two or more folders of runs to compare")
    for folder in options.runs:
        check_folder(folder)
    names = names_of([folder / "run" for folder in options.runs])
    with claimed(options.output_dir):
        runs = [read_run(folder, name) for folder, name in zip(options.runs, names, strict=True)]
        _write(options, runs, compare(runs))


def _write(options: CompareOptions, runs: Sequence[Run], parts: dict[str, list[Row]]) -> None:
    content = {"runs": [str(folder) for folder in options.runs], **parts}
    write_text(options.output_dir / "compare.json", json.dumps(content, indent=1) + "\n")
    write_text(options.output_dir / "compare.html", page(runs, parts))
    for title, rows in parts.items():
        if rows and (title != "details" or options.all):
            print(f"### {title.capitalize()}\n\n{markdown(rows)}\n")
    log.info("%s and compare.json beside it", options.output_dir / "compare.html")


def compare(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Tables with a column for each run, by title: settings, losses, numbers, details, notes."""
    numbers, details = zip(*(evaluation_numbers(one) for one in runs), strict=True)
    return {
        "settings": differing([one.settings for one in runs], [one.name for one in runs]),
        "losses": aligned([last_losses(one.log) for one in runs], [one.name for one in runs]),
        "numbers": aligned(numbers, [one.name for one in runs]),
        "details": aligned(details, [one.name for one in runs]),
        "notes": aligned([notes(one) for one in runs], [one.name for one in runs]),
    }


def notes(one: Run) -> Row:
    """Evaluations that are not of the run's newest weights, or for which that is unknown."""
    shown = {item.name: item.standing.note for item in one.evaluations if item.standing.note}
    return shown | {item.name: f"left out: {item.standing.note}" for item in one.left_out}


def differing(settings: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Rows of `aligned` for what is not the same in all runs."""
    rows = aligned([{k: v for k, v in one.items() if k not in PLACES} for one in settings], names)
    same = lambda row: all(row[name] == row[names[0]] for name in names)  # noqa: E731
    return [row for row in rows if not same(row)]


def aligned(values: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """A row for each key in the order of first appearance; None where a run has no such key."""
    keys = dict.fromkeys(key for one in values for key in one)
    return [
        {"": key, **{name: one.get(key) for name, one in zip(names, values, strict=True)}}
        for key in keys
    ]


def evaluation_numbers(one: Run) -> tuple[Row, Row]:
    """Single numbers of all evaluations, and numbers in their tables, by a name that says which."""
    numbers, details = {}, {}
    for item in one.evaluations:
        for key, value in scalars(item.numbers).items():
            if not isinstance(value, str):
                numbers[f"{item.name} {key}"] = value
        for rows in tables(item.numbers).values():
            for row in rows:
                which = ", ".join(_which(row, one.name))
                for key, value in row.items():
                    if isinstance(value, float) and not _tells_which(key, value):
                        details[f"{item.name} {key} ({which})"] = value
    return numbers, details


def _which(row: Row, run: str) -> list[str]:
    """What tells a row of a table from the others; the run's own name does not."""
    return [
        value if isinstance(value, str) else f"{key} {value}"
        for key, value in row.items()
        if _tells_which(key, value) and value != run
    ]


def _tells_which(key: str, value: Any) -> bool:
    return isinstance(value, str) or key.endswith("_ratio") or key in _WHICH


def page(runs: Sequence[Run], parts: dict[str, list[Row]]) -> str:
    """The tables as an HTML page, with the runs' losses in one chart."""
    losses = {
        one.name: [
            (float(line["epoch"]) + 1, float(line["train_loss"]))
            for line in one.log
            if "epoch" in line and "train_loss" in line
        ]
        for one in runs
    }
    chart = line_chart("Training loss", losses)
    sections = {
        "Settings that differ": table(parts["settings"]),
        "Training": (f'<div class="charts">{chart}</div>' if chart else "")
        + table(parts["losses"], "Last losses"),
        "Evaluations": table(parts["numbers"])
        + table(parts["details"], "Numbers of their tables")
        + table(parts["notes"], "Not of the newest weights, or unknown"),
    }
    title = " / ".join(one.name for one in runs)
    about = f"{len(runs)} runs side by side"
    return document(title, about, sections, f"FastIMAE {__version__}")
