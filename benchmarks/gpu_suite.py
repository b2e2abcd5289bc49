"""Everything worth knowing on a GPU: `python -m benchmarks.gpu_suite --out DIR`.

Tests, then: does it train, our step against the plain reference step, ops against the copy
bandwidth. Needs a checkout, not an installation. A part begins only while there is time; what was
measured before a failure is kept. Writes gpu_suite.json and gpu_suite.md, and exits 1 if a part
failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import ROOT, conditions, table
from benchmarks.kernel_cases import SHAPES, SMOKE_SHAPES
from benchmarks.kernels import measure_all
from benchmarks.steps import CASES, SMOKE_CASES, measure_case, train_a_little

Rows = list[dict[str, object]]


def main(argv: list[str] | None = None) -> int:
    """Run the parts in turn; 0 if all succeeded within their time."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_suite", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON and Markdown")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the suite itself")
    parser.add_argument("--only", default="", help="parts with this in their name")
    parser.add_argument("--seconds", type=float, default=540, help="time for the whole suite")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    report = conditions(device, f"python -m benchmarks.gpu_suite {' '.join(argv or sys.argv[1:])}")
    report |= {"parts": {}, "results": [], "failed": {}}
    deadline = time.monotonic() + options.seconds
    for name, part in parts(device, options.smoke).items():
        if options.only in name:
            run_part(report, name, part, deadline)
            write(report, options.out)
    print(markdown(report))
    return int(bool(report["failed"]))


def parts(device: torch.device, smoke: bool) -> dict[str, Callable[[], Rows]]:
    """What the suite does, in order of worth. Each returns rows of a table."""
    cases = SMOKE_CASES if smoke else CASES
    found: dict[str, Callable[[], Rows]] = {}
    if device.type == "cuda":
        found["tests"] = run_tests
    found["trains"] = lambda: train_a_little(cases, device)
    for case in cases:
        found[f"step {case.name}"] = lambda case=case: measure_case(case, device)
    found["kernels"] = lambda: measure_kernels(device, smoke)
    return found


def run_part(report: dict, name: str, part: Callable[[], Rows], deadline: float) -> None:
    """Run one part unless the time is over; note its rows, or why it failed."""
    start = time.monotonic()
    if start > deadline:
        report["failed"][name] = "no time left"
        return
    try:
        rows = part()
    except Exception:
        report["failed"][name] = traceback.format_exc(limit=4)
        return
    finally:
        report["parts"][name] = {"seconds": round(time.monotonic() - start, 1)}
    report["parts"][name]["rows"] = rows
    report["results"] += [row for row in rows if "img_per_s" in row]


def run_tests() -> Rows:
    """The tests that need CUDA. Raises RuntimeError with their last lines if one fails."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=480, check=False
    )
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing"]
    if done.returncode:
        raise RuntimeError("\n".join(lines[-30:]))
    return [{"tests/gpu": lines[-1]}]


def measure_kernels(device: torch.device, smoke: bool) -> Rows:
    """The ops at one shape. Raises RuntimeError if one is wrong."""
    shapes = SMOKE_SHAPES if smoke else SHAPES[:1]
    rows, failed = measure_all(device, shapes, compiled=not smoke)
    if failed:
        raise RuntimeError("\n".join(f"{name}: {reason}" for name, reason in failed.items()))
    columns = list(dict.fromkeys(key for row in rows[1:] for key in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


def write(report: dict, folder: Path) -> None:
    """The report as JSON for programs and as Markdown for people."""
    (folder / "gpu_suite.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "gpu_suite.md").write_text(markdown(report))


def markdown(report: dict) -> str:
    """The report as Markdown: conditions, a table a part, and what failed."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    text = [f"# {report['device']}\n", f"{report['date']}, commit {report['commit']}, {versions}\n"]
    text.append(f"`{report['command']}`\n")
    for name, part in report["parts"].items():
        text.append(f"## {name} ({part['seconds']} s)\n")
        text.append(table(part.get("rows", [])))
    for name, reason in report["failed"].items():
        text.append(f"## failed: {name}\n\n```\n{reason}\n```\n")
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
