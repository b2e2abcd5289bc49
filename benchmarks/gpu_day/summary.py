"""What a run found, for people: tables of what was measured, and of what each part did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import conditions, parts_table, tables

SHOWN = 1500
"""Characters that a part may fill on the screen; the file has all."""


def markdown(report: Mapping, folder: Path) -> str:
    """All of it. folder: where the files are that parts left."""
    text = [f"# Run {report['run']} on {report['device']}\n", conditions(report)]
    for name, part in report["parts"].items():
        text.append(f"## {name}: {part['status']}, {part['seconds']} s\n\n`{part['command']}`\n")
        text.append(measured(part, folder) or _fenced(part["text"]))
        if part["status"] != "ok" or not part["text"]:
            text.append(_fenced(part["complaint"]))
    return "\n".join([*text, "## Parts\n", parts_table(report)])


def brief(report: Mapping, folder: Path) -> str:
    """What fits a screen, the shortest last: complaints, tables, how each part ended."""
    parts = report["parts"].items()
    failed = [
        f"{name}: {part['status']}\n{_end(part['complaint'])}\n"
        for name, part in parts
        if part["status"] != "ok"
    ]
    shown = [
        (name, measured(part, folder) or _end(part["text"] or part["complaint"]))
        for name, part in parts
    ]
    shown = sorted(((name, text) for name, text in shown if text.strip()), key=lambda x: -len(x[1]))
    return "\n".join([*failed, *(f"{name}\n{text}" for name, text in shown), parts_table(report)])


def measured(part: Mapping, folder: Path) -> str:
    """Tables of the JSON that a part left; nothing where it left none, or none that is whole."""
    file = folder / Path(part["file"]).name
    if not part["file"].endswith(".json") or not file.exists():
        return ""
    try:
        return tables(json.loads(file.read_text()))
    except Exception as error:  # of one file: the day goes on
        return f"(no table of {file.name}: {error!r})\n"


def _end(text: str) -> str:
    """The last lines, as far as they fit."""
    return text if len(text) <= SHOWN else text[-SHOWN:].partition("\n")[2]


def _fenced(text: str) -> str:
    return f"```\n{text.strip()}\n```\n" if text.strip() else ""
