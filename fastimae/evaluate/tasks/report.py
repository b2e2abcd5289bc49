"""fastimae-eval report: an HTML page of a run, with its curves, pictures and all results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastimae.evaluate.options.pages import ReportOptions
from fastimae.evaluate.pages.curves import curves
from fastimae.evaluate.pages.evaluations import Evaluation
from fastimae.evaluate.pages.page import Section, render
from fastimae.evaluate.pages.runs import RunRecord, check_folder, read_run
from fastimae.evaluate.pages.starts import UNKNOWN, facts_of, parse_date, table_of, when
from fastimae.evaluate.pages.titles import TITLES, in_order, scores_in, title_of, unit_of
from fastimae.evaluate.result_files import FORMERLY
from fastimae.folders import write_text
from fastimae.locks import file_to_write
from fastimae.log import log
from fastimae.objectives.choice import run_title

PAGE = "report.html"


def run(options: ReportOptions) -> None:
    """Write the page."""
    folder = options.folder()
    path = options.output or folder / PAGE
    check_folder(folder)
    with file_to_write(path, "--output"):
        record = read_run(folder)
        write_text(path, page(record))
    log.info("%s: evaluations: %d, %.1f MB", path, len(record.evaluations),
             path.stat().st_size / 1e6)  # fmt: skip


def page(record: RunRecord) -> str:
    """Return the run as an HTML page."""
    sections = [
        Section(title="At a glance", cards=headline(record)),
        dates_section(record),
        Section(title="Curves", charts=curves(record.log)),
        Section(title="Pictures", pictures=record.pictures),
        *map(evaluation_section, in_order(record.evaluations)),
        Section(title="Left out", tables={"": left_out(record)}),
        Section(
            title="Settings",
            settings=record.settings,
            settings_title=f"All {len(record.settings)} settings of the run",
        ),
    ]
    return render(record.name, about(record), sections)


def about(record: RunRecord) -> str:
    """Describe the run in one line."""
    values = record.settings
    source = next(
        (values[k] for k in ("ffcv", "dali", "data_path", "dataset") if values.get(k)), None
    )
    parts = [
        run_title(values),
        str(values.get("model", "")),
        _epochs(len(record.log), values.get("epochs")),
        f"on {Path(source).name}" if source else "",
        f"{values['mask_ratio']:.0%} masked" if "mask_ratio" in values else "",
    ]
    return " · ".join(part for part in parts if part)


def _epochs(done: int, asked: Any) -> str:
    number = f"{done} of {asked}" if isinstance(asked, int) and asked != done else f"{done}"
    return f"{number} epoch{'s' * (number != '1')}" if done else ""


def headline(record: RunRecord) -> dict[str, Any]:
    """Return the numbers that a reader looks for first."""
    values: dict[str, Any] = {}
    for item in in_order(record.evaluations):
        epoch = f", {item.match.epoch}" if item.match.epoch else ""
        for key, title in scores_in(item).items():
            known = f"{title}: {unit_of(key)}" if title == title_of(item) else f"{title} (%)"
            values[f"{known}{epoch}"] = item.numbers[key]
    for name, value in (record.last_losses | record.last_probes).items():
        values[f"{name.replace('_', ' ')}, last"] = value
    if record.log and "img_per_s" in record.log[-1]:
        values["images per second"] = round(record.log[-1]["img_per_s"])
    return values


def dates_section(record: RunRecord) -> Section:
    """Return when, where and with which command the run was computed, as far as it is recorded."""
    title, facts = "Dates and machine", facts_of(record.starts, record.folder)
    if set(facts.values()) == {UNKNOWN}:
        return Section(title=title, notes=["Unknown: nothing is recorded of them in this folder."])
    return Section(
        title=title,
        facts=facts,
        command=record.starts[-1].command,
        tables={"Starts": table_of(record.starts)},
    )


def evaluation_section(item: Evaluation) -> Section:
    """Return an evaluation's numbers, curves, tables, pictures and settings."""
    numbers = item.scalars
    notes = (item.match.note, numbers.pop("note", ""), _former_name(item), _date_of(item))
    return Section(
        title=title_of(item),
        notes=[str(note) for note in notes if note],
        cards={unit_of(name): value for name, value in numbers.items()},
        charts=curves(item.log),
        tables={
            "" if name == "table" else name.replace("_", " "): rows
            for name, rows in item.tables.items()
        },
        pictures=item.pictures,
        settings=item.content.get("settings") or {},
    )


def _former_name(item: Evaluation) -> str:
    """Return by which name, which now means something else, this was measured; "" if by its own."""
    if FORMERLY not in item.content:
        return ""
    before = item.content[FORMERLY]
    return f"Measured by fastimae-eval {before} of an earlier version: not {TITLES[before]}."


def _date_of(item: Evaluation) -> str:
    """Return when an evaluation was made; "" if that is not recorded."""
    date = parse_date(item.content.get("date"))
    return f"Measured {when(date)}" if date else ""


def left_out(record: RunRecord) -> list[dict[str, Any]]:
    """Return a row for each evaluation whose numbers are not this run's, with the reason."""
    return [
        {
            "evaluation": item.folder.relative_to(record.folder).as_posix(),
            "why": item.match.note,
        }
        for item in record.left_out
    ]
