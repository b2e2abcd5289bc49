"""How long original and replacement take on a call: forward and backward, in turn, medians.

Modules that both call unchanged, such as an encoder's blocks, are left out: beside them the
difference would be smaller than the noise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastimae.foreign_models.equivalence import detached, few, named_tensors, with_parameters

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site

_BUDGET, _ROUNDS, _LEAST_ROUNDS = 0.4, 20, 9
"""Seconds that the rounds of a kind of part should take, on a CPU with fewer samples of the batch
if need be; at most this many rounds, and at least, which may take longer."""
_PATIENCE = 3.0
"""Seconds after which rounds end even so, on a machine that is busy with something else."""
_DOUBT = 0.025
"""Probability with which a part that is no faster may pass: its rounds are as coin tosses then."""
_ACTIVATIONS = 64
"""Bytes that a pass may keep for a byte of its input: samples that would not fit are left out."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """speedup: time of the original by that of ours, the median of the rounds. surely: what that
    median exceeds with a confidence of 97.5 % (a sign test), as other programs disturb some rounds.
    seconds: of the original's forward pass, on the whole batch of the call."""

    surely: float
    speedup: float
    seconds: float


def compare_times(site: Site, values: tuple) -> Timing:
    """Measure the site's original and its replacement on a call, backward if it has gradients."""
    backward = torch.is_grad_enabled()
    with torch.inference_mode(False):
        parameters = detached(site.module)
        run = _rounds_inside(site, values, parameters, backward)
        with _without_shared_blocks(site):
            return with_parameters(site.module, parameters, run)


@contextlib.contextmanager
def _without_shared_blocks(site: Site) -> Iterator[None]:
    """Let the blocks that both call (`Part.kept`) return their input."""
    homes = [getattr(site.module, name.removesuffix("."), None) for name in site.part.kept if name]
    blocks = [block for home in homes if home is not None for block in home]
    own = [vars(block).pop("forward", None) for block in blocks]
    for block in blocks:
        vars(block)["forward"] = functools.partial(site.part.passed, block)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


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
        deadline = time.perf_counter() + _PATIENCE
        for at in range(count):
            if at > 1 and time.perf_counter() > deadline:
                break
            for which in (at % 2, 1 - at % 2):  # first one, then the other goes first
                seconds[which].append(once((ours, theirs)[which], args))
        ratios = [theirs[1] / ours[1] for ours, theirs in zip(*seconds, strict=True)]
        forward = statistics.median(half for half, _ in seconds[1])
        seconds_of_all = forward * len(values[0]) / samples
        return Timing(surely_exceeded(ratios), statistics.median(ratios), seconds_of_all)

    return rounds


def surely_exceeded(ratios: list[float]) -> float:
    """Return the largest of the ratios that their true median exceeds but for `_DOUBT`.

    Of five ratios or fewer, none: 0.
    """
    count, below, doubt = len(ratios), 0, 0.5 ** len(ratios)
    while doubt <= _DOUBT:
        below += 1
        doubt += math.comb(count, below) / 2**count
    return sorted(ratios)[below - 1] if below else 0.0


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
