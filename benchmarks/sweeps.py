"""Sweeps: every way to run an op, checked and timed at the shapes of training.

`benchmarks.attention` and `benchmarks.mlp` describe their op as a `SweptOp`; the rest is here.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.runtime.jit import JITFunction

from benchmarks.harness import BenchmarkReport, table, usual_parser
from benchmarks.timing import interleaved
from benchmarks.winners import Row, spelled
from fastimae.kernels._launch import interpreted
from fastimae.kernels._tables import architecture, capability

TOLERANCE = 1e-2
"""Largest relative distance from the correct results, as a norm, that rounding to bf16 explains."""
MILLISECONDS = 10
"""Length of one timing, which is repeated ten times."""
OURS = "triton"
"""Name of the variants that launch our kernels."""
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class OpVariant:
    """A way to run an op: our kernel with some settings, or a library's kernel."""

    name: str
    direction: str
    settings: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.direction, spelled(self.settings))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweptOp:
    """An op, its shapes, and how to run, check and summarise it.

    A shape is a dataclass whose fields are columns of the table; its inputs are whatever
    `inputs_of` returns.
    """

    name: str
    """As in `python -m benchmarks.NAME`."""
    about: str
    """Description of the command."""
    columns: tuple[str, ...]
    """Fields that identify a shape."""
    settings: str
    """Column of our kernel's settings."""
    shapes: Sequence[Any]
    smoke_shapes: Sequence[Any]
    variants: Callable[[Any, int], list[OpVariant]]
    """The variants to try, from a shape and an architecture such as 90."""
    inputs_of: Callable[[Any, torch.device], Any]
    call_of: Callable[[OpVariant, Any], Call]
    """A call of a variant on these inputs."""
    distance: Callable[[OpVariant, Any, Any], float]
    """How far a call's results are from the correct ones."""
    summary: Callable[[list[Row]], list[Row]]
    """A readable summary of the rows of a sweep."""
    update: Callable[[Path], list[Row]]
    """Writes the winners of a sweep's file into the table that training reads."""


def sweep_main(op: SweptOp, argv: list[str] | None) -> int:
    """Run the command; return 0 if our kernels were correct with all settings."""
    options = sweep_parser(op).parse_args(argv)
    if options.write is not None:
        _write(op, options.write)
        return 0
    device = torch.device(options.device)
    _interpret_on_cpu(op, argv, device)
    report = _new_report(op, options, argv)
    shapes = op.smoke_shapes if options.smoke else op.shapes
    sweep(op, report, shapes, device, time.monotonic() + options.seconds)
    print(table(op.summary(report["rows"])))
    return int(any("error" in row for row in report["rows"] if row["way"] == OURS))


def sweep_parser(op: SweptOp) -> argparse.ArgumentParser:
    """Make the parser of a sweep's command line."""
    made = usual_parser(_program(op), op.about)
    made.add_argument("--seconds", type=float, default=math.inf, help="measure nothing after this")
    made.add_argument(
        "--write", type=Path, metavar="F.json", help="update the table of training from this sweep"
    )
    return made


def sweep(
    op: SweptOp,
    report: BenchmarkReport,
    shapes: Sequence[Any],
    device: torch.device,
    deadline: float,
) -> None:
    """Measure shape after shape until the deadline; the report is kept after each row."""
    number = architecture(op.name, capability(device))
    report.keep()
    for shape in shapes:
        found, inputs = op.variants(shape, number), None
        for variant in found:
            if time.monotonic() > deadline:
                return
            if inputs is None:
                inputs = op.inputs_of(shape, device)
                if device.type == "cuda":
                    _compile_ahead(our_calls(op, found, inputs), str(shape))
            row = measure(op, variant, shape, inputs, device)
            report["rows"].append(row)
            outcome = row.get("error") or f"{row['us']:.1f} us"
            print(f"{shape} {variant}: {outcome}", flush=True)
            report.keep()
        report["finished"].append([getattr(shape, name) for name in op.columns])
        report.keep()
    report.finish()


def measure(op: SweptOp, variant: OpVariant, shape: Any, inputs: Any, device: torch.device) -> Row:
    """Check a variant and time it; return its row, with how far its results are off.

    A variant that cannot run gets an error in its row, so that the others are still measured.
    """
    row: Row = dataclasses.asdict(shape)
    row |= {"way": variant.name, "direction": variant.direction, op.settings: variant.settings}
    try:
        call = op.call_of(variant, inputs)
        row["off"] = op.distance(variant, call(), inputs)
        if not row["off"] <= TOLERANCE:
            return row | {"error": "wrong results"}
        return row | {"us": _microseconds(call, device)}
    except Exception as error:
        return row | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}


def our_calls(op: SweptOp, variants: list[OpVariant], inputs: Any) -> Iterator[Call]:
    """Yield calls of the variants that launch our kernels."""
    return (op.call_of(variant, inputs) for variant in variants if variant.name == OURS)


def _program(op: SweptOp) -> str:
    return f"python -m benchmarks.{op.name}"


def _write(op: SweptOp, sweep: Path) -> None:
    try:
        print(table(op.update(sweep)))
    except (OSError, ValueError) as error:
        raise SystemExit(f"--write: {error}") from error


def _interpret_on_cpu(op: SweptOp, argv: list[str] | None, device: torch.device) -> None:
    """Restart the program with Triton's interpreter, which has to be set before kernels load."""
    if device.type == "cpu" and not interpreted():
        given = sys.argv[1:] if argv is None else argv
        command = [sys.executable, "-m", f"benchmarks.{op.name}", *given]
        os.execve(sys.executable, command, {**os.environ, "TRITON_INTERPRET": "1"})


def _new_report(
    op: SweptOp, options: argparse.Namespace, argv: list[str] | None
) -> BenchmarkReport:
    device = torch.device(options.device)
    major, minor = capability(device)
    rehearsal = options.smoke or device.type == "cpu"
    parts = {"op": op.name, "shape": list(op.columns), "rows": [], "finished": []}
    parts["architecture"] = None if rehearsal else 10 * major + minor
    return BenchmarkReport(device, _program(op), argv, options.out, **parts)


def _microseconds(call: Call, device: torch.device) -> float:
    """Take the median: of graph replays on a GPU, else, in a rehearsal, of one call.

    Triton's timer and not `timing`: it chooses how many calls a graph has by how long one takes.
    """
    if device.type == "cuda":
        testing = triton.testing
        return 1e3 * testing.do_bench_cudagraph(call, rep=MILLISECONDS, return_mode="median")
    return 1e6 * interleaved({"": call}, device, rounds=1, warm_up=0)[""].median


def _compile_ahead(calls: Iterator[Call], what: str) -> None:
    """Compile our kernels for a GPU side by side: one by one takes most of a sweep's time."""
    run = JITFunction.run
    only_compile = lambda self, *args, warmup, **given: run(self, *args, warmup=True, **given)  # noqa: E731
    try:
        with (
            concurrent.futures.ThreadPoolExecutor() as pool,
            triton.AsyncCompileMode(pool, ignore_errors=True),  # `measure` will report them
            mock.patch.object(JITFunction, "run", only_compile),
        ):
            for call in calls:
                call()
    except Exception as error:  # not worth ending the sweep
        print(f"{what}: kernels are compiled one by one, {error!r}", flush=True)
