"""The summary of a run: tables of what was measured, and how each part ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import conditions_line
from benchmarks.report import parts_table, tables

SCREEN = 1500
"""Most characters of a part on the screen; the file has all."""


def markdown(report: Mapping, folder: Path) -> str:
    """Make the complete page. folder: has the files of the parts."""
    text = [f"# Run {report['run']} on {report['device']}\n", conditions_line(report)]
    for name, part in report["parts"].items():
        text.append(f"## {name}: {part['status']}, {part['seconds']} s\n\n`{part['command']}`\n")
        text.append(measured(part, folder) or _fenced(part["text"]))
        if part["status"] != "ok" or not part["text"]:
            text.append(_fenced(part["complaint"]))
    return "\n".join([*text, "## Parts\n", parts_table(report)])


def brief(report: Mapping, folder: Path) -> str:
    """Make a page that fits on a screen, the shortest last: errors, tables, how each part ended."""
    parts = report["parts"].items()
    failed = [
        f"{name}: {part['status']}\n{_end(part['complaint'])}\n"
        for name, part in parts
        if part["status"] != "ok"
    ]
    printed = [
        (name, measured(part, folder) or _end(part["text"] or part["complaint"]))
        for name, part in parts
    ]
    printed = sorted(
        ((name, text) for name, text in printed if text.strip()), key=lambda x: -len(x[1])
    )
    return "\n".join([*failed, *(f"{name}\n{text}" for name, text in printed), parts_table(report)])


def measured(part: Mapping, folder: Path) -> str:
    """Make the tables of a part's JSON file; empty if there is none."""
    file = folder / Path(part["file"]).name
    if not part["file"].endswith(".json") or not file.exists():
        return ""
    try:
        return tables(json.loads(file.read_text()))
    except Exception as error:  # one bad file does not end the run
        return f"(no table of {file.name}: {error!r})\n"


def _end(text: str) -> str:
    """Return the last lines that fit."""
    return text if len(text) <= SCREEN else text[-SCREEN:].partition("\n")[2]


def _fenced(text: str) -> str:
    return f"```\n{text.strip()}\n```\n" if text.strip() else ""
