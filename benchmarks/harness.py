"""Timing that can be trusted: variants interleaved, medians with quantiles, conditions noted,
and reports that keep every row, whenever the run is killed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.clocks import Call, HostClock, clock_of
from benchmarks.conditions import ROOT, conditions
from fastimae.flags import OnceParser
from fastimae.folders import FolderError, prepare_file, write_text


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a call took: the median and the 20 % and 80 % quantiles over the rounds so far."""

    median: float
    low: float
    high: float
    rounds: int
    timed: str
    """By which clock: "host clock" or "graph replays"."""


def usual_parser(prog: str, about: str | None) -> argparse.ArgumentParser:
    """--out, --device and --smoke, as all benchmarks of a GPU have them. about: the docstring."""
    parser = OnceParser(prog=prog, description=about)
    parser.add_argument("--out", type=out_file, help="file for the results as JSON")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the benchmark")
    return parser


def out_file(text: str) -> Path:
    """The file that --out names, for argparse: one that cannot be written is found at once."""
    try:
        prepare_file(Path(text), "--out")
    except FolderError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def in_rounds(
    variants: Mapping[str, Call],
    device: torch.device,
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
    replays: bool = False,
) -> Iterator[dict[str, Timing]]:
    """Time each variant `rounds` times, taking turns, so that drift hits all alike; yields the
    timings so far after each round.

    calls: in a row, for one timing. replays: on a GPU, time a graph of them instead of the host
    that launches them, where the variant can be recorded (see `clock_of`).
    """
    clocks = {
        name: clock_of(name, call, device, calls=calls, warm_up=warm_up, replays=replays)
        for name, call in variants.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, clock in clocks.items():
            seconds[name].append(clock())
        yield {name: summarise(seconds[name], clock.timed) for name, clock in clocks.items()}


def interleaved(
    variants: Mapping[str, Call], device: torch.device, *, rounds: int, **settings: int
) -> dict[str, Timing]:
    """The timings after all rounds of `in_rounds`."""
    *_, timings = in_rounds(variants, device, rounds=rounds, **settings)
    return timings


def summarise(seconds: list[float], timed: str = HostClock.timed) -> Timing:
    """Median and quantiles of some timings."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return Timing(
        median=statistics.median(ordered),
        low=ordered[round(0.2 * last)],
        high=ordered[round(0.8 * last)],
        rounds=len(ordered),
        timed=timed,
    )


class Report(dict):
    """What a benchmark has found so far, under the conditions it was found; grows while it runs.

    "complete" says whether the run has come to its end.
    """

    def __init__(
        self, device: torch.device, prog: str, argv: Sequence[str] | None, out: Path | None,
        *, page: Callable[[Mapping], str] | None = None, **parts: object,
    ) -> None:  # fmt: skip
        """argv: of the program `prog`; None: of this process. page: makes what people read, which
        is kept too. parts: what there is from the start."""
        command = f"{prog} {shlex.join(sys.argv[1:] if argv is None else argv)}"
        super().__init__(conditions(device, command), complete=False, **parts)
        self.out, self.page = out, page

    def keep(self) -> None:
        """Write it as JSON, and its page beside it, as .md; nothing without a path.

        So that a run killed at any moment leaves the old file or the new one.
        """
        if self.out is None:
            return
        write_whole(self.out, json.dumps(self, indent=1) + "\n")
        if self.page:
            write_whole(self.out.with_suffix(".md"), self.page(self))

    def finish(self) -> None:
        """Write that the run has ended."""
        self["complete"] = True
        self.keep()


def write_whole(path: Path, text: str) -> None:
    """Write a file, and its folder, so that whoever reads it finds the old or the new content.

    Results are shown to others: where this machine has its files is left out (tracebacks have it).
    """
    prepare_file(path, "--out")
    write_text(path, without_places(text))


def without_places(text: str) -> str:
    """The text with paths as they are from the repository, from Python's packages, from home."""
    text = re.sub(r"/[^\s\"':]*/(?:site-packages|lib/python3\.\d+)/", "", text)
    places = {str(ROOT): "", tempfile.gettempdir(): "temporary/", os.environ.get("HOME", ""): "~/"}
    for place, name in places.items():
        if len(place) > 1:  # "/" is nobody's
            text = text.replace(f"{place}/", name)
    return text


def heading(report: Mapping) -> str:
    """The first lines of a report for people: where, when, with what, and whether that is all."""
    lines = [
        f"# {card(report)}\n",
        f"{report['date']}, commit {report['commit']}, {versions(report)}\n",
        f"`{report['command']}`\n",
    ]
    if not report.get("complete", True):
        lines.append("**Not complete**: the run goes on, or was killed.\n")
    return "\n".join(lines)


def card(report: Mapping) -> str:
    """The device of a report, with its driver where that is known."""
    driver = report.get("gpu", {}).get("driver")
    return f"{report['device']}, driver {driver}" if driver else str(report["device"])


def versions(report: Mapping) -> str:
    """What it was measured with."""
    return ", ".join(f"{name} {number}" for name, number in report["versions"].items())


def failures(report: Mapping) -> list[str]:
    """What failed, a part of a page for each."""
    return [f"## FAILED: {name}\n\n```\n{why}\n```\n" for name, why in report["failed"].items()]


def table(rows: Sequence[Mapping[str, object]], first: Iterable[str] = ()) -> str:
    """Rows as a Markdown table; floats to four digits, and nothing where a row lacks something.

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
    """In this format, or three digits and all those before the point; nothing for None."""
    if value is None:
        return ""
    return f"{value:{form or ('.0f' if value >= 100 else '.3g')}}"


def say(line: str) -> None:
    """Tell whoever watches, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
