"""Timing that can be trusted: variants interleaved, medians with quantiles, conditions noted,
and reports that keep every row, whenever the run is killed."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.card import gpu_facts
from benchmarks.clocks import Call, HostClock, clock_of
from fastimae.flags import OnceParser
from fastimae.folders import FolderError, prepare_file, write_text

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a call took: the median and the 20 % and 80 % quantiles over the rounds so far."""

    median: float
    low: float
    high: float
    rounds: int
    timed: str
    """By which clock: "host clock" or "graph replays"."""


def usual_parser(module: str, about: str | None) -> argparse.ArgumentParser:
    """--out, --device and --smoke, as all benchmarks of a GPU have them. about: the docstring."""
    parser = OnceParser(prog=f"python -m {module}", description=about)
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


def conditions(device: torch.device, command: str) -> dict[str, object]:
    """Where and with what a measurement was made, for the head of its JSON file.

    The commit is that of the variable FASTIMAE_COMMIT, where sources travel without their history.
    """
    return {
        "device": device_name(device),
        **({"gpu": gpu_facts(device)} if device.type == "cuda" else {}),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's model and cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    return f"{model}, {torch.get_num_threads()} threads"


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


def write_report(out: Path | None, report: Mapping[str, object], page: str) -> None:
    """Write a report as `write_json` does, and its page for people beside it, as .md."""
    write_json(out, report)
    if out:
        write_whole(out.with_suffix(".md"), page)


def write_json(out: Path | None, report: Mapping[str, object]) -> None:
    """Write a report so that a run killed at any moment leaves the old file or the new one.

    Its "complete" says whether the run had ended. Nothing is written without a path.
    """
    if out:
        write_whole(out, json.dumps(report, indent=1) + "\n")


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


def table(rows: list[dict[str, object]]) -> str:
    """Rows with the same keys as a Markdown table; floats to four digits."""
    if not rows:
        return "(nothing measured)\n"
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[_cell(row.get(head, "")) for head in heads] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def commit() -> str:
    """What is measured: FASTIMAE_COMMIT, for sources that travel without their history, or git's
    word, or "unknown"."""
    if given := os.environ.get("FASTIMAE_COMMIT"):
        return given
    if not (ROOT / ".git").exists():  # git would speak of a repository around this folder
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return done.stdout.strip() or "unknown"
