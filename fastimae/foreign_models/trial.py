"""The trial of a site on a call: are original and replacement equal, and does it pay.

It leaves no trace: gradients are taken of detached copies, so no `.grad`, hook or reducer of DDP
sees it; random generators and buffers are restored; parts within the tried one run their originals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastimae.foreign_models.equivalence import (
    Undecided,
    detached,
    devices_of,
    few,
    find_difference,
    random_parameters,
)
from fastimae.foreign_models.runtime_checks import RuntimeChecks
from fastimae.foreign_models.timing import Timing, compare_times, synchronize

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site

ONGOING: list[bool] = []
"""Not empty during a trial: sites within it run their originals."""
MARGIN = 1.03
"""How many times as fast as the original a replacement must surely be."""
_UNSURE = "not reliably faster here"
_SAMPLES = 2
"""Samples of the call's batch on which outputs and gradients are compared."""


@dataclasses.dataclass
class Session:
    """What the sites of a model share: whether to measure, times by kind, time spent on trials."""

    measure: bool
    times: dict[Any, Timing] = dataclasses.field(default_factory=dict)
    overhead: float = 0.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a trial. why: empty if swapped. timing: None if it was not measured."""

    signature: tuple
    swapped: bool
    why: str = ""
    timing: Timing | None = None


def judge(site: Site, values: tuple, signature: tuple) -> Verdict:
    """Try the site on the values of a call. Raises Undecided."""
    if any(type(v) not in (Tensor, torch.nn.Parameter) for v in values if isinstance(v, Tensor)):
        raise Undecided
    if site.session.measure and values[0].device.type not in site.part.devices:
        return Verdict(signature, False, f"ours is torch's own on {values[0].device.type}")
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise Undecided
    try:
        with _clocked(site.session, values[0]), _apart(site):
            return _judge(site, values, signature)
    except Exception as error:  # out of memory, for one: the call itself must go on
        raise Undecided from error


@contextlib.contextmanager
def _clocked(session: Session, x: Any) -> Iterator[None]:
    """Add the time spent to the session's, unless this is a trial within a trial."""
    outermost = not ONGOING
    synchronize(x)
    started = time.perf_counter()
    try:
        yield
    finally:
        synchronize(x)
        session.overhead += outermost * (time.perf_counter() - started)


def _judge(site: Site, values: tuple, signature: tuple) -> Verdict:
    try:
        with torch.inference_mode(False):
            (site.part.prove or prove_same)(site, few(values, _SAMPLES))
    except (TypeError, ValueError) as reason:
        return Verdict(signature, False, str(reason))
    except (Undecided, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a foreign module may raise anything; it is left alone
        return Verdict(signature, False, f"a trial fails: {type(error).__name__}: {error}")
    if not (site.session.measure and site.part.measured):
        return Verdict(signature, True)
    timing = _timing(site, values, signature)
    why = "no faster here" if timing.speedup < MARGIN else "" if timing.surely > MARGIN else _UNSURE
    return Verdict(signature, not why, why, timing)


def _timing(site: Site, values: tuple, signature: tuple) -> Timing:
    """Measure, unless an equal part was measured on such a call before."""
    shapes = tuple(p.shape for p in site.module.parameters())
    kind = site.part.name, type(site.module), signature, len(values[0]), shapes
    if kind not in site.session.times:
        site.session.times[kind] = compare_times(site, values)
    return site.session.times[kind]


def prove_same(site: Site, values: tuple, theirs: Any = None) -> None:
    """Check that original and replacement agree: on these values with the module's parameters, and
    on the part's further ones, or else the same, with random parameters.

    The original may neither read tensor values nor draw random numbers. theirs: how to call it,
    if not with the values. Raises ValueError with the difference.
    """
    part = site.part

    def original(each: tuple) -> Any:
        with RuntimeChecks(site.preconditions):
            return theirs() if theirs else site.original(**site.by_name(each))

    own, random = detached(site.module), random_parameters(site.module, part.kept)
    for name in part.vanishing(site.module):
        own[f"module.{name}"].requires_grad_(False)
        random[f"module.{name}"].requires_grad_(False)
    further = [*part.more(site.module, *values)] or [values]
    for each, weights in ((values, own), *((more, random) for more in further)):
        wrt = {name: v for name, v in site.by_name(each).items() if isinstance(v, Tensor)}
        if why := find_difference(
            site.module,
            lambda *args: part.replacement(site.module, *args),
            lambda *args: original(args),
            each,
            wrt,
            weights,
            multiplies=part.multiplies,
        ):
            raise ValueError(why)


@contextlib.contextmanager
def _apart(site: Site) -> Iterator[None]:
    """Let a trial leave no trace in random generators, in autocast's cache of cast weights, and in
    hooks on saved tensors, by which checkpointing counts them."""
    device = next((p.device.type for p in site.module.parameters()), "cpu")
    cast = torch.is_autocast_enabled(device)
    ONGOING.append(True)
    try:
        with (
            torch.random.fork_rng(devices_of(site.module)),
            torch.autocast(
                device, torch.get_autocast_dtype(device), enabled=cast, cache_enabled=False
            ),
            torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
        ):
            yield
    finally:
        ONGOING.pop()
