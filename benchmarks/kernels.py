"""Each op against eager torch and torch.compile: `python -m benchmarks.kernels --out F.json`.

Every variant first has to agree with the specification, forward and gradients. Then they take
turns. A table row has milliseconds, GB/s of the bytes that a perfect kernel would move, and that
as a share of what a plain copy reaches in the same run. Exits 1 if a variant is wrong or fails; a
speed is never a failure.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Timing, conditions, interleaved, table
from benchmarks.kernel_cases import SHAPES, SMOKE_SHAPES, Case, Shape, cases
from benchmarks.traffic import our_bytes, plain_bytes
from fastimae import kernels

COPY_BYTES = 2**30
ROUNDS, CALLS = 7, 5
Call = Callable[[], Any]
Row = dict[str, object]


def main(argv: list[str] | None = None) -> int:
    """0 if every variant of every op gives the right results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--out", type=Path, help="file for the results as JSON, with .md beside it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to try the benchmark")
    parser.add_argument("--only", default="", help="cases with this in 'op shape'")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    shapes = SMOKE_SHAPES if options.smoke else SHAPES
    rows, failed = measure_all(device, shapes, only=options.only, compiled=not options.no_compile)
    command = f"python -m benchmarks.kernels {' '.join(argv or sys.argv[1:])}"
    report = conditions(device, command)
    report |= {"rows": rows, "traffic": measure_traffic(shapes), "failed": failed}
    text = markdown(report)
    print(text)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(text)
    return int(bool(failed))


def measure_all(
    device: torch.device, shapes: Sequence[Shape], *, only: str = "", compiled: bool = True
) -> tuple[list[Row], dict[str, str]]:
    """Rows of all cases, and what failed: name -> traceback."""
    copy_rate = measure_copy(device, COPY_BYTES if device.type == "cuda" else 2**22)
    rows: list[Row] = [{"op": "copy", "GB/s": copy_rate / 1e9, "of copy": 1.0}]
    failed: dict[str, str] = {}
    for case in [case for shape in shapes for case in cases(shape)]:
        name = f"{case.op} {case.shape}"
        if only not in name:
            continue
        try:
            rows += measure(case, device, copy_rate, compiled=compiled)
        except Exception:
            failed[name] = traceback.format_exc(limit=3)
        gc.collect()
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows, failed


def measure_traffic(shapes: Sequence[Shape]) -> list[Row]:
    """MB per mixture outside of blocks and matrix products, the plain pipeline's and ours."""
    pairs = [(shape.name, plain_bytes(shape), our_bytes(shape)) for shape in shapes]
    return [
        {"shape": name, "plain MB": plain / 1e6, "ours MB": ours / 1e6, "times": plain / ours}
        for name, plain, ours in pairs
    ]


def measure_copy(device: torch.device, size: int) -> float:
    """Bytes a second of a device copy, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = interleaved({"copy": lambda: target.copy_(source)}, device, rounds=ROUNDS, calls=CALLS)
    return 2 * size / timing["copy"].median


def measure(case: Case, device: torch.device, copy_rate: float, *, compiled: bool) -> list[Row]:
    """Rows of one op: forward, and forward with backward where it has one."""
    inputs = case.inputs(device)
    variants = variants_of(case, inputs, device, compiled)
    for name, call in variants.items():
        check(case, name, call, inputs)
    passes = {"forward": {name: functools.partial(_forward, f) for name, f in variants.items()}}
    if case.both_bytes:
        passes["forward+backward"] = {
            name: functools.partial(_forward_backward, f, inputs) for name, f in variants.items()
        }
    rows = []
    for direction, calls in passes.items():
        timings = interleaved(calls, device, rounds=ROUNDS, calls=CALLS)
        rows += [_row(case, direction, *one, copy_rate) for one in timings.items()]
    return rows


def _row(case: Case, direction: str, variant: str, timing: Timing, copy_rate: float) -> Row:
    both = direction != "forward"
    size = case.both_bytes if both else case.forward_bytes
    row = {
        "op": case.op,
        "shape": case.shape,
        "pass": direction,
        "variant": variant,
        "ms": 1e3 * timing.median,
        "ms 20 %": 1e3 * timing.low,
        "ms 80 %": 1e3 * timing.high,
        "GB": size / 1e9,
        "GB/s": size / timing.median / 1e9,
        "of copy": size / timing.median / copy_rate,
    }
    if case.forward_flops:
        # Backward has five products where forward has two.
        flops = case.forward_flops * (3.5 if both else 1)
        row["TFLOP/s"] = flops / timing.median / 1e12
    return row


def variants_of(
    case: Case, inputs: dict[str, Tensor], device: torch.device, compiled: bool
) -> dict[str, Call]:
    """Ways to run the op, by name."""
    op = getattr(kernels, case.op)
    found: dict[str, Call] = {"eager": lambda: case.spec(inputs)}
    if compiled:
        found["torch.compile"] = torch.compile(lambda: case.spec(inputs))
    found["torch"] = lambda: case.call(functools.partial(op, impl="torch"), inputs)
    if device.type == "cuda":
        found["triton"] = lambda: case.call(functools.partial(op, impl="triton"), inputs)
    found["auto"] = lambda: case.call(op, inputs)
    return found


def check(case: Case, name: str, call: Call, inputs: dict[str, Tensor]) -> None:
    """AssertionError unless results and gradients are those of the specification."""
    expected = _results(case, lambda: case.spec(inputs), inputs)
    for got, wanted in zip(_results(case, call, inputs), expected, strict=True):
        distance = (got.float() - wanted.float()).norm()
        limit = case.tolerance * wanted.float().norm()
        assert distance <= limit, f"{case.op} {case.shape} {name}: off by {distance} of {limit}"


def _results(case: Case, call: Call, inputs: dict[str, Tensor]) -> list[Tensor]:
    for tensor in inputs.values():
        tensor.grad = None
    out = call()
    outputs = [out] if isinstance(out, Tensor) else list(out)
    if case.both_bytes:
        torch.autograd.backward(outputs, _gradients(outputs))
        outputs += [tensor.grad for tensor in inputs.values() if tensor.requires_grad]
    return [tensor.detach() for tensor in outputs]


def _gradients(outputs: list[Tensor]) -> list[Tensor]:
    return [torch.ones_like(tensor) for tensor in outputs]


def _forward(call: Call) -> None:
    with torch.no_grad():
        call()


def _forward_backward(call: Call, inputs: dict[str, Tensor]) -> None:
    for tensor in inputs.values():
        tensor.grad = None
    out = call()
    outputs = [out] if isinstance(out, Tensor) else list(out)
    torch.autograd.backward(outputs, _gradients(outputs))


def markdown(report: dict) -> str:
    """The report for people."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    head = f"# {report['device']}\n\n{report['date']}, commit {report['commit']}, {versions}\n"
    text = [head, f"`{report['command']}`\n", table(_same_columns(report["rows"]))]
    text += [
        "Bytes of an i-MAE step beside blocks and matrix products:\n",
        table(report["traffic"]),
    ]
    for name, reason in report["failed"].items():
        text.append(f"## failed: {name}\n\n```\n{reason}\n```\n")
    return "\n".join(text)


def _same_columns(rows: list[Row]) -> list[Row]:
    columns = list(dict.fromkeys(key for row in rows[1:] + rows[:1] for key in row))
    return [{column: row.get(column, "") for column in columns} for row in rows]


if __name__ == "__main__":
    sys.exit(main())
