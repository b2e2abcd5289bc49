"""Each op against eager torch and torch.compile: `python -m benchmarks.kernels --out F.json`.

Every variant first has to agree with the specification, forward and gradients. Then they take
turns, on a GPU as graphs that are replayed. A table row has milliseconds, GB/s of the bytes that a
perfect kernel would move, and that as a share of what a plain copy reaches in the same run. Most
inputs are far larger than the L2; where they are not, calls rotate among several sets of them.
Exits 1 if a variant is wrong or fails; a speed is never a failure.
"""

from __future__ import annotations

import argparse
import functools
import gc
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.clocks import Turns, calls_of, sets_of
from benchmarks.harness import (
    Report,
    Timing,
    failures,
    heading,
    interleaved,
    table,
    usual_parser,
)
from benchmarks.kernel_cases import SHAPES, SMOKE_SHAPES, Case, Shape, cases
from benchmarks.traffic import our_bytes, plain_bytes
from fastimae import kernels

PROG = "python -m benchmarks.kernels"
COPY_BYTES = 2**30
ROUNDS = 7
Inputs = dict[str, Tensor]
Op = Callable[[Inputs], Any]
Row = dict[str, object]


def main(argv: list[str] | None = None) -> int:
    """0 if every variant of every op gives the right results."""
    options = parser().parse_args(argv)
    device = torch.device(options.device)
    shapes = SMOKE_SHAPES if options.smoke else SHAPES
    parts = {"rows": [], "traffic": [], "failed": {}}
    report = Report(device, PROG, argv, options.out, page=markdown, **parts)
    report.keep()
    measure_all(report, device, shapes, only=options.only, compiled=not options.no_compile)
    report["traffic"] = measure_traffic(shapes)
    report.finish()
    print(markdown(report))
    return int(bool(report["failed"]))


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = usual_parser(PROG, __doc__)
    made.add_argument("--only", default="", help="cases with this in 'op shape'")
    made.add_argument("--no-compile", action="store_true", help="without torch.compile")
    return made


def measure_all(
    report: Report,
    device: torch.device,
    shapes: Sequence[Shape],
    *,
    only: str = "",
    compiled: bool = True,
) -> None:
    """Add to the report's "rows" those of all cases, and to "failed" name -> traceback; it is kept
    whenever there is more."""
    copy_rate = measure_copy(device, COPY_BYTES if device.type == "cuda" else 2**22)
    report["rows"].append({"op": "copy", "GB/s": copy_rate / 1e9, "of copy": 1.0})
    report.keep()
    for case in [case for shape in shapes for case in cases(shape)]:
        name = f"{case.op} {case.shape}"
        if only not in name:
            continue
        try:
            for rows in measure(case, device, copy_rate, compiled=compiled):
                report["rows"] += rows
                report.keep()
        except Exception:
            report["failed"][name] = traceback.format_exc(limit=3)
        report.keep()
        gc.collect()
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure_traffic(shapes: Sequence[Shape]) -> list[Row]:
    """MB per mixture outside of blocks and matrix products, the plain pipeline's and ours."""
    pairs = [(shape.name, plain_bytes(shape), our_bytes(shape)) for shape in shapes]
    return [
        {"shape": name, "plain MB": plain / 1e6, "ours MB": ours / 1e6, "times": plain / ours}
        for name, plain, ours in pairs
    ]


def measure_copy(device: torch.device, size: int) -> float:
    """Bytes a second of a device copy, read and written."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy = {"copy": lambda: target.copy_(source)}
    calls = calls_of(2 * size, 1)
    timing = interleaved(copy, device, rounds=ROUNDS, calls=calls, replays=True)
    return 2 * size / timing["copy"].median


def measure(
    case: Case, device: torch.device, copy_rate: float, *, compiled: bool
) -> Iterator[list[Row]]:
    """Rows of one op: of forward, and then of forward with backward where it has one."""
    sets = [case.inputs(device) for _ in range(sets_of(case.forward_bytes, device))]
    variants = variants_of(case, device, compiled)
    for name, call in variants.items():
        check(case, name, call, sets[0])
    for both in (False, True) if case.both_bytes else (False,):
        size = case.both_bytes if both else case.forward_bytes
        turns = {name: Turns(_pass(call, sets[0], both), sets) for name, call in variants.items()}
        calls = calls_of(size, len(sets))
        timings = interleaved(turns, device, rounds=ROUNDS, calls=calls, replays=True)
        yield [_row(case, both, size, *one, copy_rate) for one in timings.items()]


def _row(case: Case, both: bool, size: int, variant: str, timing: Timing, copy_rate: float) -> Row:
    row = {
        "op": case.op,
        "shape": case.shape,
        "pass": "forward+backward" if both else "forward",
        "variant": variant,
        "ms": 1e3 * timing.median,
        "ms 20 %": 1e3 * timing.low,
        "ms 80 %": 1e3 * timing.high,
        "GB": size / 1e9,
        "GB/s": size / timing.median / 1e9,
        "of copy": size / timing.median / copy_rate,
        "timed": timing.timed,
    }
    if case.forward_flops:
        # Backward has five products where forward has two.
        flops = case.forward_flops * (3.5 if both else 1)
        row["TFLOP/s"] = flops / timing.median / 1e12
    return row


def variants_of(case: Case, device: torch.device, compiled: bool) -> dict[str, Op]:
    """Ways to run the op on its inputs, by name."""
    op = getattr(kernels, case.op)
    found: dict[str, Op] = {"eager": case.spec}
    if compiled:
        found["torch.compile"] = torch.compile(case.spec)
    found["torch"] = functools.partial(case.call, functools.partial(op, impl="torch"))
    if device.type == "cuda":
        found["triton"] = functools.partial(case.call, functools.partial(op, impl="triton"))
    found["auto"] = functools.partial(case.call, op)
    return found


def check(case: Case, name: str, call: Op, inputs: Inputs) -> None:
    """AssertionError unless results and gradients are those of the specification."""
    both = bool(case.both_bytes)
    expected, found = (_pass(one, inputs, both)(inputs) for one in (case.spec, call))
    for got, wanted in zip(found, expected, strict=True):
        distance = (got.float() - wanted.float()).norm()
        limit = case.tolerance * wanted.float().norm()
        assert distance <= limit, f"{case.op} {case.shape} {name}: off by {distance} of {limit}"


def _pass(call: Op, inputs: Inputs, both: bool) -> Callable[[Inputs], list[Tensor]]:
    """A call that gives results and, with `both`, the gradients of inputs like these."""

    @torch.no_grad()
    def forward(inputs: Inputs) -> list[Tensor]:
        return _listed(call(inputs))

    if not both:
        return forward
    gradients = _random_like(forward(inputs))

    def forward_backward(inputs: Inputs) -> list[Tensor]:
        results = _listed(call(inputs))
        leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]
        # Not `backward`: gradients that wait in leaves would be in the way of a recording.
        found = torch.autograd.grad(results, leaves, gradients)
        return [*(tensor.detach() for tensor in results), *found]

    return forward_backward


def _listed(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _random_like(tensors: list[Tensor]) -> list[Tensor]:
    """The same numbers in each call, in fp32 or rounded."""
    generator = torch.Generator(tensors[0].device).manual_seed(0)
    return [torch.randn(x.shape, generator=generator, device=x.device).to(x.dtype) for x in tensors]


def markdown(report: Mapping) -> str:
    """The report for people."""
    rows = report["rows"]
    text = [heading(report), table(rows, first=rows[-1] if rows else ())]  # a copy's has few
    text += ["Bytes of an i-MAE step beside blocks and matrix products:\n"]
    text += [table(report["traffic"]), *failures(report)]
    return "\n".join(text)


if __name__ == "__main__":
    raise SystemExit(main())
