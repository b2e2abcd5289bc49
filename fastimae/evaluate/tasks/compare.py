"""fastimae-eval compare: runs side by side, their accuracies, curves, pictures and settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastimae.engine.output_folders import claim_folders
from fastimae.evaluate.options.pages import CompareOptions
from fastimae.evaluate.pages.accuracies import Accuracies, accuracies
from fastimae.evaluate.pages.by_classifier import by_classifier
from fastimae.evaluate.pages.charts import Chart
from fastimae.evaluate.pages.comparison import Row, common, picture_rows, tables_of
from fastimae.evaluate.pages.curves import Log, curves_over_each_other
from fastimae.evaluate.pages.page import Section, render
from fastimae.evaluate.pages.runs import RunRecord, check_folder, read_run, unique_names
from fastimae.evaluate.pages.tables import BEST, Cell, plain_table
from fastimae.evaluate.pages.titles import in_order, title_of
from fastimae.folders import write_text
from fastimae.log import log

ACCURACIES = "Accuracies (%), top-1 unless named"
LEGEND = "The best of those measured alike, on the same images with the same settings."
NOT_ALIKE = "Losses of different objectives or targets cannot be compared."
_DEFINE_THE_LOSS = ("objective", "norm_pix_loss", "targets", "teacher", "distill_weight")
MAIN_OF_TRAINING = ("train_loss", "val_loss", "probe_linear_acc1", "probe_knn_acc1")
MAIN_OF_CLASSIFIERS = ("test_acc1",)
"""Numbers of logs whose curves are seen at once; the others are folded away."""
LONGEST_TITLE = 3
"""Runs that a page's title names."""
_PRINTED = ("settings", "losses", "probes", "numbers")


def run(options: CompareOptions) -> None:
    """Print tables; write compare.json and compare.html."""
    for folder in options.runs:
        check_folder(folder)
    names = unique_names(options.runs)
    with claim_folders(options.output_dir):
        records = [read_run(*run) for run in zip(options.runs, names, strict=True)]
        _write(options, by_classifier(records))


def _write(options: CompareOptions, records: Sequence[RunRecord]) -> None:
    best, tables = accuracies(records), tables_of(records)
    folders = [str(folder) for folder in options.runs]
    content = {"runs": folders, "accuracies": _plain(best), **tables}
    write_text(options.output_dir / "compare.json", json.dumps(content, indent=1) + "\n")
    write_text(options.output_dir / "compare.html", page(records, best, tables))
    _print_accuracies(best)
    for title in (*_PRINTED, *(["details"] if options.all else [])):
        if tables[title]:
            print(f"{title.capitalize()}\n\n{plain_table(tables[title])}\n")
    log.info("%s and compare.json beside it", options.output_dir / "compare.html")


def _print_accuracies(best: Accuracies) -> None:
    if best.rows:
        print(f"{ACCURACIES}\n\n{plain_table(best.rows)}\n")
        marks = [f"{BEST} {LEGEND}"] if _has_best(best) else []
        print("\n".join([*marks, *(f"[{n}] {note}" for n, note in enumerate(best.notes, 1)), ""]))


def _plain(best: Accuracies) -> list[Row]:
    """Return the accuracies for JSON: each with whether it is the best, and its notes."""
    return [{title: _plain_cell(value, best) for title, value in row.items()} for row in best.rows]


def _plain_cell(value: Any, best: Accuracies) -> Any:
    if not isinstance(value, Cell):
        return value
    notes = [best.notes[number - 1] for number in value.notes]
    return {"value": float(value.text), "best": value.best, "notes": notes}


def _has_best(best: Accuracies) -> bool:
    return any(isinstance(cell, Cell) and cell.best for row in best.rows for cell in row.values())


def page(records: Sequence[RunRecord], best: Accuracies, tables: dict[str, list[Row]]) -> str:
    """Return the comparison as an HTML page: accuracies, curves, pictures, settings, the rest."""
    charts, more_charts = charts_of(records)
    settings, names = [record.settings for record in records], [record.name for record in records]
    same = common(settings, names)
    losses_differ = any(row[""] in _DEFINE_THE_LOSS for row in tables["settings"])
    sections = [
        Section(
            title=ACCURACIES,
            notes=[f"★ {LEGEND}"] if _has_best(best) else [],
            tables={"": best.rows},
            footnotes=best.notes,
        ),
        Section(
            title="Curves",
            notes=[NOT_ALIKE] if charts and losses_differ else [],
            charts=charts,
            more_charts=more_charts,
            tables={"Last losses": tables["losses"], "Last probes": tables["probes"]},
        ),
        Section(title="Pictures", picture_rows=picture_rows(records)),
        Section(
            title="Settings that differ",
            tables={"": tables["settings"]},
            settings=same,
            settings_title=f"{len(same)} settings that are the same",
        ),
        Section(
            title="All numbers",
            tables={
                "Single numbers": tables["numbers"],
                "Numbers of tables": tables["details"],
                "Not of the newest weights, or unknown": tables["notes"],
            },
        ),
        Section(title="Dates and machines", tables={"": tables["machines"]}),
    ]
    number = f"{len(records)} runs side by side"
    if len(names) > LONGEST_TITLE:
        return render(number, ", ".join(names), sections)
    return render(" / ".join(names), number, sections)


def charts_of(records: Sequence[RunRecord]) -> tuple[list[Chart], list[Chart]]:
    """Return the runs' curves over each other: the main ones of training and of classifiers, and
    all others."""
    trained = in_order(item for record in records for item in record.evaluations if item.log)
    titles = dict.fromkeys(map(title_of, trained))
    logs = {"": {record.name: record.log for record in records}} | {
        f"{title}: ": {record.name: _log_of(record, title) for record in records}
        for title in titles
    }
    main, more = [], []
    for prefix, of_runs in logs.items():
        for name, chart in curves_over_each_other(of_runs, prefix).items():
            is_main = name in (MAIN_OF_CLASSIFIERS if prefix else MAIN_OF_TRAINING)
            several = len(chart.lines) > 1 or len(records) == 1
            (main if is_main and several else more).append(chart)
    return main, more


def _log_of(record: RunRecord, title: str) -> Log:
    return next((item.log for item in record.evaluations if title_of(item) == title), ())
