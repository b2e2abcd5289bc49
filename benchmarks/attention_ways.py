"""One way of attention at one shape for `benchmarks.attention`: run, checked, timed."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.runtime.jit import JITFunction

from benchmarks.attention_cases import Shape, passes
from benchmarks.harness import interleaved
from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels._attention_choice import BACKENDS, Pass, choose, tile_of

TOLERANCE = 1e-2
"""Largest relative distance from float64, as a norm, that rounding to bf16 explains."""
MILLISECONDS = 10
"""Of one timing, which is repeated ten times."""

Call = Callable[[], Tensor]


@dataclasses.dataclass(frozen=True)
class Way:
    """Our kernel with a pass, or a back end of SDPA. SDPA's backward is timed with its forward."""

    name: str
    direction: str
    settings: Pass | None = None


@dataclasses.dataclass(frozen=True)
class Inputs:
    """qkv, the gradient of the output, and what the first and last sample give in float64."""

    qkv: Tensor
    grad: Tensor
    out: Tensor
    grad_qkv: Tensor


def ways(shape: Shape, architecture: int) -> list[Way]:
    """All that is to be tried at a shape."""
    directions = ("forward", "backward")
    ours = [Way("triton", d, one) for d in directions for one in passes(shape, d, architecture)]
    return ours + [Way(name, d) for name in BACKENDS for d in ("forward", "forward+backward")]


def inputs_of(shape: Shape, device: torch.device) -> Inputs:
    """Random inputs, and the right results."""
    qkv, grad = shape.inputs(device)
    few = qkv[[0, -1]].double().requires_grad_()
    out = _attend(few)
    (grad_qkv,) = torch.autograd.grad(out, few, grad[[0, -1]].double())
    return Inputs(qkv, grad, out.detach(), grad_qkv)


def measure(way: Way, shape: Shape, inputs: Inputs) -> dict[str, object]:
    """Microseconds of a call, or why there are none; and how far the results are off."""
    row: dict[str, object] = {"way": way.name, "direction": way.direction, "pass": way.settings}
    row = dataclasses.asdict(shape) | row
    try:
        call = _call(way, inputs)
        expected = inputs.out if way.direction == "forward" else inputs.grad_qkv
        row["off"] = ((call()[[0, -1]].double() - expected).norm() / expected.norm()).item()
        if not row["off"] <= TOLERANCE:
            return row | {"error": "wrong results"}
        return row | {"us": _microseconds(call, inputs.qkv.device)}
    except Exception as error:  # of one way: the others are still to be measured
        return row | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}


def _call(way: Way, inputs: Inputs) -> Call:
    if way.name != "triton":
        return functools.partial(_sdpa, way, inputs)
    tile = tile_of(inputs.qkv.shape[1], inputs.qkv.shape[4])
    if way.direction == "forward":
        return lambda: kernel.forward(inputs.qkv, tile, way.settings)[0]
    present = choose(inputs.qkv.shape[1], inputs.qkv.shape[4], inputs.qkv.device)
    _, lse = kernel.forward(inputs.qkv, tile, present.forward)
    return lambda: kernel.backward(inputs.grad, inputs.qkv, lse, tile, way.settings)


def _sdpa(way: Way, inputs: Inputs) -> Tensor:
    qkv = inputs.qkv.detach().requires_grad_(way.direction != "forward")
    with sdpa_kernel(getattr(SDPBackend, f"{way.name.upper()}_ATTENTION")):
        out = _attend(qkv)
    return torch.autograd.grad(out, qkv, inputs.grad)[0] if qkv.requires_grad else out


def _attend(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _microseconds(call: Call, device: torch.device) -> float:
    """The median: of graph replays on a GPU, else, in a rehearsal, of one call."""
    if device.type == "cuda":
        testing = triton.testing
        return 1e3 * testing.do_bench_cudagraph(call, rep=MILLISECONDS, return_mode="median")
    return 1e6 * interleaved({"": call}, device, rounds=1, warm_up=0)[""].median


def compile_ahead(found: list[Way], inputs: Inputs) -> None:
    """Compile our kernels for a GPU side by side: one by one, that takes most of a sweep's time."""
    run = JITFunction.run
    only_compile = lambda self, *args, warmup, **given: run(self, *args, warmup=True, **given)  # noqa: E731
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        triton.AsyncCompileMode(pool, ignore_errors=True),  # `measure` meets and tells them again
        mock.patch.object(JITFunction, "run", only_compile),
    ):
        for way in found:
            if way.name == "triton":
                _call(way, inputs)()
