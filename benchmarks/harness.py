"""Shared by all benchmarks: common flags, reports that survive a kill, tables, number formats."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.conditions import ROOT, conditions
from fastimae.flags import OnceParser, path_argument
from fastimae.folders import FolderError, prepare_file, write_text


def usual_parser(prog: str, about: str | None) -> argparse.ArgumentParser:
    """Make a parser with --out, --device and --smoke. about: the description of the command."""
    parser = OnceParser(prog=prog, description=about)
    parser.add_argument("--out", type=out_file, help="write the results to this file, as JSON")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the benchmark")
    return parser


def out_file(text: str) -> Path:
    """Parse --out for argparse, and check at once that the file can be written."""
    file = path_argument(text)
    try:
        prepare_file(file, "--out")
    except FolderError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return file


class BenchmarkReport(dict):
    """The results of a benchmark so far, and the conditions they were measured under.

    It grows during the run, and is kept in a file. "complete" is true once the run has ended.
    """

    def __init__(
        self, device: torch.device, prog: str, argv: Sequence[str] | None, out: Path | None,
        *, page: Callable[[Mapping], str] | None = None, **parts: object,
    ) -> None:  # fmt: skip
        """argv: arguments of the program `prog`; None: those of this process. page: makes a page of
        Markdown from it, which is kept too. parts: entries to start with."""
        command = f"{prog} {shlex.join(sys.argv[1:] if argv is None else argv)}"
        super().__init__(conditions(device, command), complete=False, **parts)
        self.out, self.page = out, page

    def keep(self) -> None:
        """Write it as JSON, and its page beside it, as .md; do nothing without a path.

        A run that is killed at any moment leaves the old file or the new one.
        """
        if self.out is None:
            return
        write_whole(self.out, json.dumps(self, indent=1) + "\n")
        if self.page:
            write_whole(self.out.with_suffix(".md"), self.page(self))

    def finish(self) -> None:
        """Mark the run as ended, and write it."""
        self["complete"] = True
        self.keep()


def write_whole(path: Path, text: str) -> None:
    """Write a file, and its folder, atomically: readers see the old or the new content.

    Results are published, so paths of this machine, as in tracebacks, are made relative.
    """
    prepare_file(path, "--out")
    write_text(path, with_relative_paths(text))


def with_relative_paths(text: str) -> str:
    """Make paths relative to the repository, to Python's packages and to the home folder."""
    text = re.sub(r"/[^\s\"':]*/(?:site-packages|lib/python3\.\d+)/", "", text)
    places = {str(ROOT): "", tempfile.gettempdir(): "temporary/", os.environ.get("HOME", ""): "~/"}
    for place, name in places.items():
        if len(place) > 1:  # not "/"
            text = text.replace(f"{place}/", name)
    return text


def heading(report: Mapping) -> str:
    """Make the first lines of a page: where, when, with what, and whether the run is complete."""
    lines = [
        f"# {card(report)}\n",
        f"{report['date']}, commit {report['commit']}, {versions(report)}\n",
        f"`{report['command']}`\n",
    ]
    if not report.get("complete", True):
        lines.append("**Not complete**: the run continues, or was killed.\n")
    return "\n".join(lines)


def conditions_line(report: Mapping) -> str:
    """Describe in one line where, when and with what; and give the command."""
    return (
        f"{card(report)}; {report['date'][:10]}, commit {report['commit']}, {versions(report)}."
        f"{'' if report.get('complete', True) else ' Not complete.'}\n\n`{report['command']}`\n"
    )


def card(report: Mapping) -> str:
    """Name the device of a report, with its driver where known."""
    driver = report.get("gpu", {}).get("driver")
    return f"{report['device']}, driver {driver}" if driver else str(report["device"])


def versions(report: Mapping) -> str:
    """List the versions of a report."""
    return ", ".join(f"{name} {number}" for name, number in report["versions"].items())


def page(report: Mapping, *parts: str) -> str:
    """Make a page of Markdown: the heading, these parts, and a section for each failure."""
    failed = report.get("failed", {})
    failures = [f"## FAILED: {name}\n\n```\n{why}\n```\n" for name, why in failed.items()]
    return "\n".join([heading(report), *parts, *failures])


def table(rows: Sequence[Mapping[str, object]], first: Iterable[str] = ()) -> str:
    """Format rows as a Markdown table: floats with four digits, missing cells empty.

    first: columns that come before the others.
    """
    if not rows:
        return "(nothing measured)\n"
    heads = list(dict.fromkeys([*first, *(head for row in rows for head in row)]))
    lines = [heads, ["---"] * len(heads)]
    lines += [[_cell(row.get(head, "")) for head in heads] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def number(value: float | None, form: str | None = None) -> str:
    """Format a number: three digits and all those before the point, or `form`; None is empty."""
    if value is None:
        return ""
    return f"{value:{form or ('.0f' if value >= 100 else '.3g')}}"


def log_progress(line: str) -> None:
    """Print a line of progress to standard error, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
