"""Build variants of a case, check that they compute the same, time them in turn."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.clocks import repeat
from benchmarks.harness import in_rounds
from benchmarks.train.cases import Case, train_flops
from benchmarks.train.ours import Ours
from benchmarks.train.plain import Plain, PlainVariant
from benchmarks.train.variants import Way, Workshop, precision_of
from fastimae.engine.memory import resident
from fastimae.engine.throttle import synchronize

Row = dict[str, object]
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-2}
"""Of a loss, relative."""
UNTIL_RECORDED = 1
"""Steps after which a CUDA graph replays: the first one records it."""


def measure_case(
    case: Case, ways: Mapping[str, Way], device: torch.device, peak: float, *, share: bool = False
) -> Iterator[list[Row]]:
    """Rows of all variants on made-up batches, after each round those of the rounds so far.

    peak: operations a second that are 100 % MFU. share: of models, see `Workshop`; the memory of
    each variant is not told then.
    Raises AssertionError, before there are rows, if a variant's loss is not that of the plain
    pipeline in fp32.
    """
    start_afresh(device)
    workshop = Workshop(case, device, share=share)
    calls, facts = {}, {}
    for name, way in ways.items():
        with peak_memory(device) as watch:
            calls[name], note = checked(case, name, way, workshop)
            memory = None if share else watch(calls[name])
        facts[name] = {"note": note, "memory_gb": memory}
    for name, way in ways.items():
        repeat(calls[name], UNTIL_RECORDED if device.type == "cuda" else 0)
        if isinstance(way, Ours):  # again, as a graph may have been recorded in between
            check_loss(case, name, way, workshop, calls[name]().item())
    turns = in_rounds(
        calls, device, rounds=case.rounds(device, ladder=share), calls=case.calls(device), warm_up=0
    )
    for timings in turns:
        reference = timings.get("reference")
        yield [
            row(
                case, name, ways[name], timing.median, device, peak,
                ms_20=1e3 * timing.low, ms_80=1e3 * timing.high, rounds=timing.rounds,
                x_reference=reference and reference.median / timing.median, **facts[name],
            )
            for name, timing in timings.items()
        ]  # fmt: skip


def checked(
    case: Case, name: str, way: Way, workshop: Workshop
) -> tuple[Callable[[], Tensor], str]:
    """A variant that has taken its first step, and what is to be said of it.

    Raises AssertionError for a wrong loss. Where torch.compile fails, goes without.
    """
    note = ""
    try:
        variant = workshop.build(way)
        loss = first_loss(variant, workshop)
    except Exception as error:
        if not (isinstance(way, Plain) and way.compiled):
            raise
        note = f"without torch.compile: {type(error).__name__}"
        torch.compiler.reset()
        variant = workshop.build(dataclasses.replace(way, compiled=False))
        loss = first_loss(variant, workshop)
    check_loss(case, name, way, workshop, loss)
    return variant, note


def first_loss(variant: Callable[[], Tensor], workshop: Workshop) -> float:
    """Of one step, with our mask."""
    if not isinstance(variant, PlainVariant):
        return variant().item()
    variant.models.noise = workshop.noise()
    loss = variant().item()
    variant.models.noise = None
    return loss


def check_loss(case: Case, name: str, way: Way, workshop: Workshop, loss: float) -> None:
    """Raise AssertionError if a loss with our mask is not the plain pipeline's in fp32."""
    expected = workshop.expected_loss
    near = math.isclose(loss, expected, rel_tol=TOLERANCE[precision_of(way, workshop.device)])
    assert near, f"{case.name} {name}: its loss is {loss:.6g}, the reference's {expected:.6g}"


def row(
    case: Case, variant: str, way: Way, seconds: float, device: torch.device, peak: float,
    *, data: str = "synthetic", **more: object,
) -> Row:  # fmt: skip
    """What was measured, for programs. seconds: of a step."""
    size = case.batch_size(device)
    speed = size / seconds
    return {
        "case": case.name,
        "variant": variant,
        "data": data,
        "precision": precision_of(way, device),
        "batch_size": size,
        "img_per_s": speed,
        "ms": 1e3 * seconds,
        "mfu": speed * train_flops(case) / peak,
        **more,
    }


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[Callable[[], object]], float | None]]:
    """A function that runs some steps more, and returns the GB that were in use at most since the
    context began, less those in use before: a variant's weights, moments, activations. None where
    the system does not tell.

    A GPU's peak is kept from here on, as `fastimae.engine.memory` asks for: a replay shows nothing.
    """
    free_memory(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)

        def watch(step: Callable[[], object]) -> float | None:
            for _ in range(UNTIL_RECORDED):
                step()
            synchronize(device)
            return (torch.cuda.max_memory_allocated(device) - before) / 1e9

    else:
        before = resident("VmRSS")

        def watch(step: Callable[[], object]) -> float | None:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            step()
            after = resident("VmHWM")
            return None if after is None or before is None else (after - before) / 1e9

    yield watch


def start_afresh(device: torch.device) -> None:
    """As if nothing had been measured before."""
    torch.compiler.reset()  # it compiles a block for so many shapes only
    free_memory(device)


def free_memory(device: torch.device) -> None:
    """Give back what nothing uses any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
