"""`Part`: what `accelerate` must know about one kind of module, to try our kernels in its place."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from fastimae.foreign_models.preconditions import Preconditions

if TYPE_CHECKING:
    from fastimae.foreign_models.site import Site


def _no_more(module: nn.Module, *values: Any) -> Iterable[tuple]:
    return ()


def _always(module: nn.Module, *values: Any) -> bool:
    return True


def _input(block: nn.Module, x: Any, *further: Any, **named: Any) -> Any:
    return x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One kind of module, and what takes the place of one of its methods.

    A new kind is a file with a `Part`, and an entry in `parts.PARTS`. The engine does the rest: it
    binds arguments, checks preconditions, proves equality on the first call of each signature
    (shapes, number formats, autocast, modes, plain values), measures, installs, reports.
    All functions are plain functions of a Python module; `values` are the method's first
    `arguments` arguments, in its order.
    """

    name: str
    """What pickled models look it up by, in the Python module of `recognise`."""

    recognise: Callable[[nn.Module], str | None]
    """Return the name of the method to replace ("forward"), or None for another kind of module.

    Raises TypeError with the reason if the module looks like this kind, but lacks something. It
    reads attributes only. The first Part in PARTS that recognises a module's method has it.
    """

    arguments: int
    """How many arguments `replacement` takes. A call that gives any further argument of the method
    another value than its default goes to the original."""

    attributes: tuple[str, ...] = ()
    """Arguments that are read from the module instead if the method has fewer."""

    replacement: Callable[..., Any]
    """replacement(module, *values): what is called instead. It may call the module's own modules;
    those whose weights it reads instead must be in the preconditions (`bypassed`)."""

    preconditions: Callable[[nn.Module, str], Preconditions]
    """preconditions(module, method): everything the method reads that may change later, looked at
    once and compared before each call. Raises ValueError with the reason if the method must not be
    replaced. `static_analysis.analysed(role)` finds them in bytecode; for a class of a library
    whose source is known, list them by hand, the library's methods included (`methods`)."""

    fits: Callable[..., bool] = _always
    """fits(module, *values): whether `replacement` can do this call, else the original does it.
    Called each time: microseconds, and no wait for the device."""

    prove: Callable[[Site, tuple], None] | None = None
    """prove(site, values): raise ValueError with the reason unless both agree. None:
    `trial.prove_same`. Needed by methods that draw random numbers."""

    more: Callable[..., Iterable[tuple]] = _no_more
    """more(module, *values): values for the comparison with random parameters, such as noise;
    none: those of the call."""

    kept: tuple[str, ...] = ()
    """Prefixes of parameters which the proof does not replace by random ones, as both methods call
    their modules unchanged, and the timing leaves out. ("",): the method has no use for parameters.
    """

    passed: Callable[..., Any] = _input
    """passed(block, x): what a block of `kept` returns if x is what it computes."""

    vanishing: Callable[[nn.Module], Iterable[str]] = _no_more
    """vanishing(module): names of parameters whose gradient is zero but for rounding, such as the
    bias of keys: it is not compared."""

    multiplies: bool = True
    """Both multiply matrices, so TensorFloat-32 and autocast may cause small differences."""

    devices: tuple[str, ...] = ("cuda", "cpu")
    """Kinds of devices on which `replacement` does not just call the same functions of torch. On
    others it cannot be faster, and is left untried if speed matters."""

    measured: bool = True
    """Whether it must be faster to stay. False for what the others need (the masks)."""

    used: Callable[[nn.Module], bool] = _always
    """used(module): whether others have use for it, so that it is not reported as left. `fits` must
    say the same."""

    def __reduce__(self) -> tuple[Any, ...]:
        return part_called, (self.recognise.__module__, self.name)


def part_called(home: str, name: str) -> Part:
    """Return the part of this name, from the Python module that defines it and its `recognise`."""
    values = vars(importlib.import_module(home)).values()
    return next(value for value in values if isinstance(value, Part) and value.name == name)
