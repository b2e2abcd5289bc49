"""The first whole call of an accelerated model: its report is completed and logged after it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from fastimae.foreign_models.equivalence import (
    devices_of,
    list_differences,
    outputs_and_gradients,
)
from fastimae.foreign_models.installed import Installed
from fastimae.foreign_models.mae_proofs import recorded_masks, without_replacements
from fastimae.foreign_models.report import Report
from fastimae.foreign_models.timing import synchronize
from fastimae.foreign_models.trial import Session
from fastimae.log import log


class AccelerationError(RuntimeError):
    """The accelerated model differs from the original. The message names what differs."""


@dataclasses.dataclass(eq=False)
class FirstCall(Installed):
    """Takes the place of the model's `forward` for one eager call.

    debug: that call is also computed by the original methods, and compared.
    """

    report: Report
    session: Session
    debug: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.original(*args, **kwargs)
        self.remove()
        try:
            outputs = self._both(args, kwargs) if self.debug else self._timed(args, kwargs)
        except AccelerationError:
            raise
        except Exception:  # a call that fails was none
            self.install()
            raise
        log.info("accelerate: what became of %s\n%s", type(self.module).__name__, self.report)
        return outputs

    def _timed(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        before, started = self.session.overhead, time.perf_counter()
        outputs = self.module.forward(*args, **kwargs)
        synchronize(next(self.module.parameters(), None))
        trials = self.session.overhead - before
        self.report.seconds = time.perf_counter() - started - trials
        return outputs

    def _both(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Compute both ways, with the same masks and random numbers. Raises AccelerationError."""
        model, sites = self.module, self.report.sites
        zero = {f"{s.path}.{n}".strip(".") for s in sites for n in s.part.vanishing(s.module)}
        parameters = {name: p for name, p in model.named_parameters() if name not in zero}
        with torch.random.fork_rng(devices_of(model)):
            self._timed(args, kwargs)  # the trials are in this call
        with torch.random.fork_rng(devices_of(model)), recorded_masks(model) as drawn:
            outputs = model.forward(*args, **kwargs)
        with without_replacements(model, drawn):
            expected = model.forward(*args, **kwargs)
        differing = list_differences(
            outputs_and_gradients(outputs, parameters), outputs_and_gradients(expected, parameters)
        )
        if differing:
            raise AccelerationError(
                f"accelerate: the first call differs from the original's: {', '.join(differing)}"
            )
        return outputs
