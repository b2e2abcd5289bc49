"""`Site`: one method of one module, and which calls of it our replacement takes.

The first eager call of each signature is a trial (see `trial`); until then, and for all other
calls, the original runs.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from fastimae.foreign_models import trial
from fastimae.foreign_models.installed import Installed
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.preconditions import Preconditions
from fastimae.foreign_models.stateless_values import is_constant
from fastimae.foreign_models.trial import Session, Undecided, Verdict
from fastimae.log import log

_MOST_TRIALS = 32
"""Signatures that are tried at a site, such as numbers of tokens; for others the original runs."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(eq=False)
class Site(Installed):
    """A place where `part` may replace a method.

    path: the module's name in the model. parameters: names and defaults of the method's
    parameters. attributes: of the module, for arguments that the method does not take. verdicts: of
    the signatures tried so far.
    """

    part: Part
    path: str
    parameters: tuple[tuple[str, Any], ...]
    attributes: tuple[str, ...]
    preconditions: Preconditions
    session: Session
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    trials: int = 0
    warned: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = self._values(args, kwargs)
        if values is not None and _is_plain(values[0]) and self.takes(values):
            return self.part.replacement(self.module, *values)
        return self.original(*args, **kwargs)

    @property
    def label(self) -> str:
        """The site's name in reports."""
        name = "" if self.name == "forward" else self.name
        return f"{self.path}.{name}".strip(".")

    def takes(self, values: tuple) -> bool:
        """Return whether the replacement takes this call, after a trial if there was none yet."""
        signature = self._signature(values)
        for verdict in self.verdicts:
            if verdict.signature == signature:
                return verdict.swapped and self._holds() and self.part.fits(self.module, *values)
        if torch.compiler.is_compiling():
            _warn_untried()
            return False
        if trial.ONGOING or not self._holds() or not self.part.fits(self.module, *values):
            return False
        verdict = self.judge(values)
        return verdict is not None and verdict.swapped

    def judge(self, values: tuple) -> Verdict | None:
        """Return the verdict on calls like this one, after a trial if there was none yet."""
        signature = self._signature(values)
        known = [each for each in self.verdicts if each.signature == signature]
        if known or self.trials == _MOST_TRIALS:
            return known[0] if known else None
        self.trials += 1
        if self.trials == _MOST_TRIALS:
            log.warning(
                "accelerate: %s was tried on %d kinds of calls; others run the original",
                self.label,
                _MOST_TRIALS,
            )
        try:
            self.verdicts.append(trial.judge(self, values, signature))
        except Undecided:
            return None
        return self.verdicts[-1]

    def by_name(self, values: tuple) -> dict[str, Any]:
        """Return arguments as keywords, by the method's own names."""
        return {name: value for (name, _), value in zip(self.parameters, values, strict=False)}

    def _values(self, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        """Return the arguments that the replacement takes, None if others are given, too."""
        arity = self.part.arguments - len(self.attributes)
        read = tuple([getattr(self.module, name) for name in self.attributes])
        if not kwargs and len(args) == arity:
            return args + read
        given = dict(zip((name for name, _ in self.parameters), args, strict=False)) | kwargs
        values = [given.pop(name, default) for name, default in self.parameters]
        further = zip(values[arity:], self.parameters[arity:], strict=True)
        usual = not given and all(value is default for value, (_, default) in further)
        if not usual or len(args) > len(values) or inspect.Parameter.empty in values[:arity]:
            return None
        return tuple(values[:arity]) + read

    def _signature(self, values: tuple) -> tuple:
        """Return what a trial's verdict depends on; the batch size is not part of it."""
        mode = self.module.training, torch.is_grad_enabled()
        return mode + tuple([_kind(value) for value in values])

    def _holds(self) -> bool:
        """Return whether the preconditions hold; warn once if one has changed."""
        change = self.preconditions.change()
        if change and not self.warned and not torch.compiler.is_compiling():
            self.warned = True
            name = f"{self.path}.{self.name}".lstrip(".")
            log.warning("accelerate: %s runs the original method: %s", name, change)
        return not change


def _is_plain(x: Any) -> bool:
    """Return whether x is a tensor that is computed now, once, with gradients at most backward.

    Transforms of torch.func, forward-mode gradients, jit.trace and shapes without values go to the
    original, as our ops have no rules for some of them.
    """
    if not isinstance(x, Tensor) or x.is_meta:
        return False
    if torch.compiler.is_compiling():
        return True
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return not (transformed or forward_ad._current_level >= 0 or torch._C._get_tracing_state())


def _kind(value: Any) -> Any:
    """Return what matters of an argument: a plain value itself; a tensor's format and shape."""
    if not isinstance(value, Tensor):
        return value if is_constant(value) else type(value)
    device = value.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return value.dtype, device, cast, value.requires_grad, tuple(value.shape[1:])


def _warn_untried() -> None:
    log.warning(
        "accelerate: the model is compiled before it was called once, so the original is compiled. "
        "Call it once first: the parts are tried in that call"
    )


# Runs when the call is traced, and leaves nothing in the graph, as a call of a logger would.
_warn_untried._dynamo_marked_constant = True


def make_site(part: Part, module: nn.Module, name: str, path: str, session: Session) -> Site:
    """Return a site, not installed yet; parameters beyond the part's need defaults.

    Raises TypeError for another signature, or if the method is already replaced in the module
    itself; ValueError if the method does more than the replacement.
    """
    if name in module.__dict__:
        raise TypeError(f"{name} is already replaced in this object")
    _, *parameters = inspect.signature(getattr(type(module), name)).parameters.values()
    named = [p for p in parameters if p.kind not in _VARIADIC]
    needed = [p for p in named[part.arguments :] if p.default is inspect.Parameter.empty]
    missing = part.attributes if len(named) == part.arguments - len(part.attributes) else ()
    if len(named) + len(missing) < part.arguments or needed:
        raise TypeError(f"takes ({', '.join(map(str, parameters))})")
    if lacking := [each for each in missing if not hasattr(module, each)]:
        raise TypeError(f"takes no {lacking[0]}, and {type(module).__name__} has none")
    known = tuple((p.name, p.default) for p in named)
    return Site(module, name, part, path, known, missing, part.preconditions(module, name), session)
