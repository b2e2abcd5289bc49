"""One op: its variants checked against the specification, and timed in turns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.shapes import KernelCase
from benchmarks.timing import Timing, Turns, calls_of, interleaved, sets_of
from fastimae import kernels

COPY_BYTES = 2**30
ROUNDS = 7
Inputs = dict[str, Tensor]
Op = Callable[[Inputs], Any]
Row = dict[str, object]


def measure_copy(device: torch.device, size: int) -> float:
    """Measure the bytes per second that a device copy reads and writes."""
    source = torch.empty(size, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copy = {"copy": lambda: target.copy_(source)}
    calls = calls_of(2 * size, 1)
    timing = interleaved(copy, device, rounds=ROUNDS, calls=calls, replays=True)
    return 2 * size / timing["copy"].median


def measure(
    case: KernelCase, device: torch.device, copy_rate: float, *, compiled: bool
) -> Iterator[list[Row]]:
    """Yield rows of one op: of forward, then of forward with backward if it has one."""
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


def _row(
    case: KernelCase, both: bool, size: int, variant: str, timing: Timing, copy_rate: float
) -> Row:
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
        flops = case.both_flops if both else case.forward_flops
        row["TFLOP/s"] = flops / timing.median / 1e12
    return row


def variants_of(case: KernelCase, device: torch.device, compiled: bool) -> dict[str, Op]:
    """Return the ways to run an op on its inputs, by name."""
    op = getattr(kernels, case.op)
    found: dict[str, Op] = {"eager": case.spec}
    if compiled:
        found["torch.compile"] = torch.compile(case.spec)
    found["torch"] = functools.partial(case.call, functools.partial(op, impl="torch"))
    if device.type == "cuda":
        found["triton"] = functools.partial(case.call, functools.partial(op, impl="triton"))
    found["auto"] = functools.partial(case.call, op)
    return found


def check(case: KernelCase, name: str, call: Op, inputs: Inputs) -> None:
    """Raise AssertionError unless results and gradients match the specification."""
    both = bool(case.both_bytes)
    expected, found = (_pass(one, inputs, both)(inputs) for one in (case.spec, call))
    for got, wanted in zip(found, expected, strict=True):
        distance = (got.float() - wanted.float()).norm()
        limit = case.tolerance * wanted.float().norm()
        assert distance <= limit, f"{case.op} {case.shape} {name}: off by {distance} of {limit}"


def _pass(call: Op, inputs: Inputs, both: bool) -> Callable[[Inputs], list[Tensor]]:
    """Prepare a call that returns results and, with `both`, the gradients of inputs like these."""

    @torch.no_grad()
    def forward(inputs: Inputs) -> list[Tensor]:
        return _listed(call(inputs))

    if not both:
        return forward
    gradients = _random_like(forward(inputs))

    def forward_backward(inputs: Inputs) -> list[Tensor]:
        results = _listed(call(inputs))
        leaves = [tensor for tensor in inputs.values() if tensor.requires_grad]
        # Not `backward`: gradients that are kept in leaves would disturb a recording.
        found = torch.autograd.grad(results, leaves, gradients)
        return [*(tensor.detach() for tensor in results), *found]

    return forward_backward


def _listed(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _random_like(tensors: list[Tensor]) -> list[Tensor]:
    """Draw the same numbers in each call, rounded to the dtype of each tensor."""
    generator = torch.Generator(tensors[0].device).manual_seed(0)
    return [torch.randn(x.shape, generator=generator, device=x.device).to(x.dtype) for x in tensors]
