"""Which way attention is the fastest: `python -m benchmarks.attention --seconds 40 --out F.json`.

For each shape, the most valuable first: our kernel with several passes, forward and backward apart,
and SDPA's back ends. Results have to be those of float64; then a call is timed by replays of a CUDA
graph. Each row is written as soon as it is there. `--write F.json` measures nothing: it puts the
winners into the table that training reads, kernels/attention_sm*.json. On a CPU kernels run in
Triton's interpreter: a rehearsal, with --smoke.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.attention_cases import SHAPES, SMOKE_SHAPES, Shape
from benchmarks.attention_table import Row, summary, update
from benchmarks.attention_ways import Inputs, Way, compile_ahead, inputs_of, measure, ways
from benchmarks.harness import Report, table, usual_parser
from fastimae.kernels._attention_choice import architecture, capability
from fastimae.kernels._launch import interpreted

PROG = "python -m benchmarks.attention"


def main(argv: list[str] | None = None) -> int:
    """0 if our kernel was right with every pass; a back end that fails has a row that says so."""
    options = parser().parse_args(argv)
    if options.write:
        try:
            print(table(update(options.write)))
        except (OSError, ValueError) as error:
            raise SystemExit(f"--write: {error}") from error
        return 0
    device = torch.device(options.device)
    if device.type == "cpu" and not interpreted():  # which is settled when kernels are imported
        environment = {**os.environ, "TRITON_INTERPRET": "1"}
        command = [sys.executable, "-m", "benchmarks.attention"]
        command += sys.argv[1:] if argv is None else argv
        os.execve(sys.executable, command, environment)
    major, minor = capability(device)
    rehearsal = options.smoke or device.type == "cpu"
    parts = {"architecture": None if rehearsal else 10 * major + minor, "rows": [], "finished": []}
    report = Report(device, PROG, argv, options.out, **parts)
    sweep(report, SMOKE_SHAPES if options.smoke else SHAPES, device, options.seconds)
    print(table(summary(report["rows"])))
    return int(any("error" in row for row in report["rows"] if row["way"] == "triton"))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = usual_parser(PROG, __doc__)
    made.add_argument("--seconds", type=float, default=math.inf, help="begin nothing later")
    made.add_argument("--write", type=Path, metavar="F.json", help="update the table from it")
    return made


def sweep(report: Report, shapes: Sequence[Shape], device: torch.device, seconds: float) -> None:
    """Measure shape after shape while there is time; the report is kept after each row."""
    deadline = time.monotonic() + seconds
    report.keep()
    for shape in shapes:
        found = ways(shape, architecture(capability(device)))
        inputs = None
        for way in found:
            if time.monotonic() > deadline:
                return
            inputs = inputs or prepared(shape, found, device)
            row = measure(way, shape, inputs)
            report["rows"].append(row)
            print(line(row), flush=True)
            report.keep()
        report["finished"].append([shape.tokens, shape.head_dim])
        report.keep()
    report.finish()


def prepared(shape: Shape, found: list[Way], device: torch.device) -> Inputs:
    """Inputs of a shape, with the kernels compiled that it will launch."""
    inputs = inputs_of(shape, device)
    if device.type == "cuda":
        try:
            compile_ahead(found, inputs)
        except Exception as error:  # not worth the sweep
            print(f"{shape}: kernels are compiled one by one, {error!r}", flush=True)
    return inputs


def line(row: Row) -> str:
    """A row for those who watch."""
    how = "x".join(map(str, row["pass"] or ()))
    what = [f"N={row['tokens']} d={row['head_dim']}", row["way"], row["direction"], how]
    found = row.get("error") or f"{row['us']:.1f} us"
    return f"{' '.join(filter(None, what))}: {found}"


if __name__ == "__main__":
    sys.exit(main())
