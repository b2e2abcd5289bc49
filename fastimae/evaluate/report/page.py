"""An HTML page of a run: curves, pictures and every evaluation's numbers, in one file."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

from fastimae import __version__
from fastimae.evaluate.report.evaluations import Evaluation
from fastimae.evaluate.report.page_parts import (
    cards,
    curves,
    document,
    picture,
    settings,
    spaced,
    table,
)
from fastimae.evaluate.report.runs import Run, check_folder, last_losses, read_run, scalars, tables
from fastimae.folders import write_text
from fastimae.locks import file_to_write
from fastimae.log import log
from fastimae.objectives.choice import objective_title
from fastimae.settings import Settings

PAGE = "report.html"
ORDER = ("semantics", "finetune", "linear", "knn", "fewshot", "separability", "msem",
         "reconstruct", "attention", "tsne", "weights")  # fmt: skip
TITLES = {
    "semantics": "Same-class ratios",
    "finetune": "Fine-tuning",
    "knn": "Nearest neighbours",
    "fewshot": "Few labels",
    "separability": "Separability (M_ls)",
    "msem": "M_sem",
    "tsne": "t-SNE",
}
UNITS = {"acc1": "top-1 (%)", "acc5": "top-5 (%)", "msem": "mean top-1 (%)"}


@dataclasses.dataclass(kw_only=True)
class ReportOptions(Settings):
    """One HTML file with a run's curves, pictures and numbers; it needs nothing else to open."""

    run: Path
    """The --output_dir of fastimae-train (or of a study), with the eval-* folders below it."""
    output: Path | None = None
    """The file to write. None: report.html in --run."""
    debug: bool = False
    """Show tracebacks."""


def run(options: ReportOptions) -> None:
    """Write the page."""
    path = options.output or options.run / PAGE
    check_folder(options.run)
    with file_to_write(path, "--output"):
        found = read_run(options.run)
        write_text(path, page(found))
    log.info("%s: %d evaluations, %.1f MB", path, len(found.evaluations),
             path.stat().st_size / 1e6)  # fmt: skip


def page(found: Run) -> str:
    """The run as HTML text."""
    sections = {
        "At a glance": cards(headline(found)),
        "Curves": curves(found.log),
        "Pictures": "".join(map(picture, found.pictures)),
        **{title_of(item): evaluation(item) for item in in_order(found.evaluations)},
        "Left out": table(left_out(found)),
        "Settings": settings(found.settings, f"All {len(found.settings)} settings of the run"),
    }
    return document(found.name, about(found), sections, f"FastIMAE {__version__}")


def about(found: Run) -> str:
    """The run in a line."""
    values = found.settings
    source = next((values[k] for k in ("ffcv", "dali", "data_path") if values.get(k)), None)
    parts = [
        objective_title(str(values.get("objective", ""))),
        str(values.get("model", "")),
        f"{len(found.log)} epochs" if found.log else "",
        f"on {Path(source).name}" if source else "",
        f"{values['mask_ratio']:.0%} masked" if "mask_ratio" in values else "",
    ]
    return " · ".join(part for part in parts if part)


def headline(found: Run) -> dict[str, Any]:
    """The numbers one looks for first."""
    values: dict[str, Any] = {}
    for item in in_order(found.evaluations):
        for key in ("acc1", "msem"):
            if key in item.numbers:
                where = f", {item.standing.when}" if item.standing.when else ""
                values[f"{title_of(item)}: {UNITS[key]}{where}"] = item.numbers[key]
    values |= {f"{spaced(name)}, last": value for name, value in last_losses(found.log).items()}
    if found.log and "img_per_s" in found.log[-1]:
        values["images per second"] = round(found.log[-1]["img_per_s"])
    return values


def evaluation(item: Evaluation) -> str:
    """One evaluation: numbers, tables, curves, pictures, settings."""
    numbers = scalars(item.numbers)
    note = numbers.pop("note", "")
    parts = [
        *(
            f'<p class="soft">{html.escape(text)}</p>\n'
            for text in (item.standing.note, note)
            if text
        ),
        cards({UNITS.get(name, spaced(name)): value for name, value in numbers.items()}),
        *(
            table(rows, "" if name == "table" else spaced(name))
            for name, rows in tables(item.numbers).items()
        ),
        curves(item.log),
        *map(picture, item.pictures),
        settings(item.content.get("settings") or {}, "Settings of this evaluation"),
    ]
    return "".join(parts)


def left_out(found: Run) -> list[dict[str, Any]]:
    """Evaluations whose numbers are not this run's, and why."""
    return [
        {"evaluation": item.folder.relative_to(found.folder).as_posix(), "why": item.standing.note}
        for item in found.left_out
    ]


def in_order(items: tuple[Evaluation, ...]) -> list[Evaluation]:
    """Accuracies first, pictures last."""
    place = {task: number for number, task in enumerate(ORDER)}
    return sorted(items, key=lambda item: place.get(str(item.content.get("task")), len(ORDER)))


def title_of(item: Evaluation) -> str:
    """The evaluation in words, with its folder where that is not the usual one."""
    task, _, place = item.name.partition(" ")
    return f"{TITLES.get(task, task.capitalize())} {place}".strip()
