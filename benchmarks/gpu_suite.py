"""Everything worth knowing on a GPU: `python -m benchmarks.gpu_suite --out DIR`.

Tests of the kernels, our step against the plain pipeline, a training run against the plain one's
loss curve, the ladder, the ops against the copy bandwidth, loaders. Needs a checkout, not an
installation; the ffcv library and DALI are used where they are. Each part is a process of its own
with a time limit, and is killed when that is over; what it had measured by then is kept. Writes
gpu_suite.json and gpu_suite.md, and exits 1 if a part failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.harness import ROOT, conditions
from benchmarks.train import tables

PYTHON = sys.executable
LAST_LINES = 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A command of the suite."""

    name: str
    command: tuple[str, ...]
    """Prints Markdown. With `report`, `--out FILE.json` is added."""
    limit: float
    """Seconds."""
    report: bool = True


def main(argv: list[str] | None = None) -> int:
    """Run the parts in turn; 0 if all succeeded within their time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_suite", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON and Markdown")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, help="a .beton, to measure loaders and fed steps")
    parser.add_argument("--folder", type=Path, help="the same images, as folders of classes")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as .beton, for the loss curve")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the suite itself")
    parser.add_argument("--only", default="", help="parts with this in their name")
    parser.add_argument("--seconds", type=float, default=520, help="time for the whole suite")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m benchmarks.gpu_suite {' '.join(argv or sys.argv[1:])}"
    report = conditions(torch.device(options.device), command)
    report |= {"parts": {}, "results": [], "failed": {}}
    deadline = time.monotonic() + options.seconds
    for part in parts(options):
        if options.only in part.name:
            print(f"{time.strftime('%H:%M:%S')} {part.name}", file=sys.stderr, flush=True)
            run_part(report, part, options.out, deadline - time.monotonic())
            write(report, options.out)
    print(markdown(report))
    return int(bool(report["failed"]))


def parts(options: argparse.Namespace) -> list[Part]:
    """What the suite does, in order of worth."""
    on = ("--device", options.device, *("--smoke",) * options.smoke)
    train = (PYTHON, "-m", "benchmarks.train", *on, *("--no_compile",) * options.smoke)
    imae = ("--cases", "imae_vit_nano_patch8" if options.smoke else "imae_vit_base_patch16")
    data = _given("--data", options.data) + _given("--folder", options.folder)
    fed = (*train, "--no_table", *imae, *data)
    pytest = (PYTHON, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider")
    loaders = (PYTHON, "-m", "benchmarks.loaders", "--no_sweep", "--rounds", "3", *data)
    found = [
        Part(name="tests", command=pytest, limit=150, report=False),
        Part(name="train", command=train, limit=260),
        Part(name="curve", command=curve_command(options, on), limit=90),
        Part(name="ladder", command=(*train, "--no_table", "--ladder", *imae), limit=120),
        Part(name="kernels", command=kernel_command(on, options.smoke), limit=100),
        Part(name="fed", command=fed, limit=90),
        Part(name="loaders", command=loaders, limit=120),
    ]
    useless = {"tests"} if options.device == "cpu" else set()
    useless |= set() if options.data else {"fed", "loaders"}
    return [part for part in found if part.name not in useless]


def curve_command(options: argparse.Namespace, on: tuple[str, ...]) -> tuple[str, ...]:
    """300 steps of i-MAE by the plain pipeline and by ours."""
    short = ("--steps", "30", "--batch_size", "16") * options.smoke
    cifar = _given("--cifar", options.cifar)
    return PYTHON, "-m", "benchmarks.train.curve", *on, *short, *cifar


def kernel_command(on: tuple[str, ...], smoke: bool) -> tuple[str, ...]:
    """The ops at one shape."""
    few = ("--no-compile",) if smoke else ("--only", "ViT-B/16")
    return PYTHON, "-m", "benchmarks.kernels", *on, *few


def _given(flag: str, path: Path | None) -> tuple[str, ...]:
    return () if path is None else (flag, os.path.relpath(path, ROOT))


def run_part(report: dict, part: Part, folder: Path, left: float) -> None:
    """Run one part unless the time is over; note what it found, or why it failed."""
    start, limit = time.monotonic(), min(part.limit, left)
    if limit <= 0:
        report["failed"][part.name] = "no time left"
        return
    file = folder / f"{part.name}.json"
    file.unlink(missing_ok=True)  # of an earlier run
    command = (*part.command, *_given("--out", file)) if part.report else part.command
    status, text, complaint = run(command, limit)
    if status:
        lines = complaint or text.splitlines()
        report["failed"][part.name] = "\n".join([status, *lines[-LAST_LINES:]])
    content = json.loads(file.read_text()) if file.exists() else {}
    report["parts"][part.name] = {
        "seconds": round(time.monotonic() - start, 1),
        "command": " ".join(["python", *command[1:]]),
        "text": tables.markdown(content) if "ladder" in content else text,
        "report": content,
    }
    if part.name in ("train", "fed"):
        report["results"] += content.get("results", [])


def run(command: tuple[str, ...], limit: float) -> tuple[str, str, list[str]]:
    """What went wrong ("" if nothing), what the command printed, and lines of its errors."""
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    status = ""
    try:
        text, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        status = f"killed after {limit:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
        text, errors = process.communicate()
    if process.returncode and not status:
        status = f"exit status {process.returncode}"
    return status, text, errors.splitlines()


def write(report: dict, folder: Path) -> None:
    """The report as JSON for programs and as Markdown for people."""
    (folder / "gpu_suite.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "gpu_suite.md").write_text(markdown(report))


def markdown(report: dict) -> str:
    """The report as Markdown: conditions, what each part printed, and what failed."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    text = [f"# {report['device']}\n", f"{report['date']}, commit {report['commit']}, {versions}\n"]
    text.append(f"`{report['command']}`\n")
    for name, part in report["parts"].items():
        text.append(f"## {name} ({part['seconds']} s)\n")
        text.append(re.sub(r"^#", "###", part["text"], flags=re.MULTILINE))
    for name, reason in report["failed"].items():
        text.append(f"## failed: {name}\n\n```\n{reason}\n```\n")
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
