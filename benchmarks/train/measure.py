"""Variants of a case: built, checked to compute the same loss, and timed in turns."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import Timing, in_rounds, interleaved, repeat
from benchmarks.train.cases import TrainCase, train_flops
from benchmarks.train.fastimae_step import FastImaeStep
from benchmarks.train.reference_step import BuiltReferenceStep, ReferenceStep
from benchmarks.train.variants import Variant, VariantBuilder, precision_of
from fastimae.engine.memory import resident
from fastimae.engine.throttle import synchronize

Row = dict[str, object]
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-2}
"""Largest relative distance of a loss, by precision."""
UNTIL_RECORDED = 1
"""Steps after which a CUDA graph replays: the first one records it."""


def measure_case(
    case: TrainCase,
    variants: Mapping[str, Variant],
    device: torch.device,
    peak: float,
    *,
    share: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of all variants on made-up batches, updated after each round.

    peak: operations per second that are 100 % MFU. share: whether variants share models, see
    `VariantBuilder`; their memory is not measured then. A ladder shares, and its rungs take minutes
    to build: each gets a row of one timing as soon as it is built. Raises AssertionError if a
    variant's loss is not that of the plain pipeline in fp32: before its row exists, and without
    sharing before any row exists.
    """
    start_afresh(device)
    builder = VariantBuilder(case, device, share=share)
    calls, facts, early = {}, {}, {}
    until_recorded = UNTIL_RECORDED if device.type == "cuda" else 0
    timed = {"calls": case.calls(device), "warm_up": 0}
    rows = partial(_rows, case, variants, device, peak, facts)
    for name, variant in variants.items():
        with peak_memory(device) as watch:
            calls[name], note = checked(case, name, variant, builder)
            memory = None if share else watch(calls[name])
        facts[name] = {"note": note, "memory_gb": memory}
        if share:
            repeat(calls[name], until_recorded)
            early |= interleaved({name: calls[name]}, device, rounds=1, **timed)
            yield rows(early)
    for name, variant in variants.items():
        repeat(calls[name], until_recorded)
        if isinstance(variant, FastImaeStep):  # again, as a graph may have been recorded in between
            check_loss(case, name, variant, builder, calls[name]().item())
    for timings in in_rounds(calls, device, rounds=case.rounds(device, ladder=share), **timed):
        yield rows(timings)


def _rows(
    case: TrainCase, variants: Mapping[str, Variant], device: torch.device, peak: float,
    facts: Mapping[str, Row], timings: Mapping[str, Timing],
) -> list[Row]:  # fmt: skip
    reference = timings.get("reference")
    return [
        row(
            case, name, variants[name], timing.median, device, peak,
            ms_20=1e3 * timing.low, ms_80=1e3 * timing.high, rounds=timing.rounds,
            x_reference=reference and reference.median / timing.median, **facts[name],
        )
        for name, timing in timings.items()
    ]  # fmt: skip


def checked(
    case: TrainCase, name: str, variant: Variant, builder: VariantBuilder
) -> tuple[Callable[[], Tensor], str]:
    """Build a variant, run and check its first step; return it with a note, or an empty one.

    Raises AssertionError for a wrong loss. If torch.compile fails, the variant is built without it.
    """
    note = ""
    try:
        step = builder.build(variant)
        loss = first_loss(step, builder)
    except Exception as error:
        if not (isinstance(variant, ReferenceStep) and variant.compiled):
            raise
        note = f"without torch.compile: {type(error).__name__}"
        torch.compiler.reset()
        step = builder.build(dataclasses.replace(variant, compiled=False))
        loss = first_loss(step, builder)
    check_loss(case, name, variant, builder, loss)
    return step, note


def first_loss(step: Callable[[], Tensor], builder: VariantBuilder) -> float:
    """Run one step with our mask; return its loss."""
    if not isinstance(step, BuiltReferenceStep):
        return step().item()
    step.models.noise = builder.noise(builder.case)
    loss = step().item()
    step.models.noise = None
    return loss


def check_loss(
    case: TrainCase, name: str, variant: Variant, builder: VariantBuilder, loss: float
) -> None:
    """Raise AssertionError if a loss with our mask is not the plain pipeline's in fp32."""
    expected = builder.expected_loss(variant)
    near = math.isclose(loss, expected, rel_tol=TOLERANCE[precision_of(variant, builder.device)])
    assert near, f"{case.name} {name}: its loss is {loss:.6g}, the reference's {expected:.6g}"


def row(
    case: TrainCase, name: str, variant: Variant, seconds: float, device: torch.device, peak: float,
    *, data: str = "synthetic", **more: object,
) -> Row:  # fmt: skip
    """Make a row of the JSON file. seconds: of a step."""
    size = case.batch_size(device)
    speed = size / seconds
    return {
        "case": case.name,
        "variant": name,
        "data": data,
        "precision": precision_of(variant, device),
        "batch_size": size,
        "img_per_s": speed,
        "ms": 1e3 * seconds,
        "mfu": speed * train_flops(variant.on(case)) / peak,
        **more,
    }


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[Callable[[], object]], float | None]]:
    """Give a function that runs a few more steps and returns the peak of memory in GB.

    The peak is since the context began, less what was in use before: weights, moments and
    activations of a variant. None if the system does not report it. A GPU's peak is kept from
    here on, since a replay allocates nothing, see `fastimae.engine.memory`.
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
    """Reset what earlier measurements left: compiled code and memory."""
    torch.compiler.reset()  # it compiles a block for a limited number of shapes
    free_memory(device)


def free_memory(device: torch.device) -> None:
    """Return unused memory to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
