"""How long original and replacement take on a call: forward and backward, in turn, medians."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastimae.foreign_models.equivalence import detached, few, named_tensors, with_parameters

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site

_BUDGET, _ROUNDS, _LEAST_ROUNDS = 0.15, 15, 5
"""Seconds that the rounds of a kind of part should take, on a CPU with fewer samples of the batch
if need be; at most this many rounds, and at least, which may take longer."""
_ACTIVATIONS = 64
"""Bytes that a pass may keep for a byte of its input: samples that would not fit are left out."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """speedup: time of the original by that of ours, the median of the rounds. surely: what three
    quarters of them exceed, as other programs disturb some. seconds: of the original's forward
    pass, on the whole batch of the call."""

    surely: float
    speedup: float
    seconds: float


def compare_times(site: Site, values: tuple) -> Timing:
    """Measure the site's original and its replacement on a call, backward if it has gradients."""
    backward = torch.is_grad_enabled()
    with torch.inference_mode(False):
        parameters = detached(site.module)
        run = _rounds_inside(site, values, parameters, backward)
        return with_parameters(site.module, parameters, run)


def _rounds_inside(
    site: Site, values: tuple, parameters: dict[str, Tensor], backward: bool
) -> Callable[[], Timing]:
    part, module = site.part, site.module

    def ours(*args: Any) -> Any:
        site.preconditions.change()  # its guards are part of its price
        return part.replacement(module, *args)

    def theirs(*args: Any) -> Any:
        return site.original(**site.by_name(args))

    def once(function: Callable, args: tuple) -> tuple[float, float]:
        """Return seconds of the forward pass, and of all."""
        sources = [x for x in [*args, *parameters.values()] if _wants_gradient(x)]
        copies = [x.clone() if _wants_gradient(x) else x for x in args]
        synchronize(args[0])
        started = time.perf_counter()
        with torch.set_grad_enabled(backward):
            outputs = function(*copies)
        synchronize(args[0])
        half = time.perf_counter()
        roots = [x for _, x in named_tensors(outputs) if x.requires_grad]
        if backward and roots and sources:
            ones = [torch.ones_like(x) for x in roots]
            torch.autograd.grad(roots, sources, ones, allow_unused=True)
            synchronize(args[0])
        return half - started, time.perf_counter() - started

    def rounds() -> Timing:
        samples, count = _choose(once, ours, theirs, values)
        args = few(values, samples)
        seconds: tuple[list, list] = [], []
        for at in range(count):
            for which in (at % 2, 1 - at % 2):  # first one, then the other goes first
                seconds[which].append(once((ours, theirs)[which], args))
        ratios = [theirs[1] / ours[1] for ours, theirs in zip(*seconds, strict=True)]
        forward = statistics.median(half for half, _ in seconds[1])
        return Timing(*_quartile_and_median(ratios), forward * len(values[0]) / samples)

    return rounds


def _quartile_and_median(ratios: list[float]) -> tuple[float, float]:
    quartile, median, _ = statistics.quantiles(ratios, method="inclusive")
    return quartile, median


def _choose(once: Callable, ours: Callable, theirs: Callable, values: tuple) -> tuple[int, int]:
    """Return the number of samples and of rounds, from a first run of each."""
    x, batch = values[0], len(values[0])
    samples = min(batch, 2) if not x.is_cuda else _that_fit(x)
    args = few(values, samples)
    for function in (ours, theirs):
        seconds = once(function, args)[1]
    affordable = _BUDGET / 2 / max(seconds, 1e-6)
    if not x.is_cuda and samples < batch and affordable > _ROUNDS:
        return min(batch, int(samples * affordable / _ROUNDS)), _ROUNDS
    return samples, min(max(int(affordable), _LEAST_ROUNDS), _ROUNDS)


def _that_fit(x: Tensor) -> int:
    """Return how many samples of x fit into half of the GPU's free memory, with activations."""
    free, _ = torch.cuda.mem_get_info(x.device)
    sample = max(x[0].numel() * x.element_size() * _ACTIVATIONS, 1)
    return min(len(x), max(int(free / 2 / sample), 1))


def synchronize(x: Any) -> None:
    """Wait for the tensor's GPU, if it is on one."""
    if isinstance(x, Tensor) and x.is_cuda:
        torch.cuda.synchronize(x.device)


def _wants_gradient(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad
