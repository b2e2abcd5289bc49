"""Validation after epochs, in the log, with the best weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from fastimae.engine.checkpoint import FORMAT, save_checkpoint
from fastimae.engine.checkpoint_file import CheckpointError, read
from fastimae.engine.distributed import World
from fastimae.evaluate.options.labels import BEST
from fastimae.loaders import DevicePrefetch
from fastimae.log import log

Measure = Callable[[], dict[str, float]]
"""Tests the student on all ranks; returns the entries of the epoch's log line, the same on each."""


class ValidatingLoader(DevicePrefetch):
    """A loader that validates: its `report`, at the end of an epoch, has what `measure` returns.

    `last` and `best` are the reports of the last and the best epoch that is tested, {} before the
    first; the best weights are in `checkpoint-best.pth`. An epoch whose value is not a number is
    never the best. If that file is not of a resumed run's best epoch, or the test images have
    changed, the best of the remaining epochs is kept.
    """

    def __init__(
        self,
        loader: Any,
        student: nn.Module,
        measure: Measure,
        world: World,
        *,
        by: str,
        is_due: Callable[[int], bool],
        output_dir: Path,
        args: dict[str, Any],
        tested_on: int,
    ) -> None:
        """by: the entry of `measure` that is largest in the best epoch. is_due: whether to test
        after an epoch, from 0. args: settings for the checkpoint. tested_on: a digest of the test
        images, see `Images.view_digest`.
        """
        super().__init__(loader, world.device)
        self.student, self.measure, self.world, self.by = student, measure, world, by
        self.is_due = is_due
        self.output_dir, self.args, self.tested_on = output_dir, args, tested_on
        self.last: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.best_is_kept = True

    def report(self) -> dict[str, Any]:
        """Validate if that is due, keep the best weights, and return all entries for the log."""
        self._share_statistics()
        if not self.is_due(self.epoch):
            return super().report()
        result = self.measure()
        self.last = {"epoch": self.epoch, **result}
        if self._is_best(result[self.by]):
            self.best, self.best_is_kept = self.last, True
            self._keep()
        return {**super().report(), **result}

    def _is_best(self, value: float) -> bool:
        if math.isnan(value):
            if self.world.is_main:
                log.warning("epoch %d: %s is not a number, so it is not kept as the best",
                            self.epoch, self.by)  # fmt: skip
            return False
        return value > self.best.get(self.by, -math.inf) or not self.best_is_kept

    def _share_statistics(self) -> None:
        """Average running means and variances over the ranks."""
        for buffer in self.student.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.world.mean(buffer))

    def state_dict(self) -> dict[str, Any]:
        """Return the loader's state, the last and best report, and the test images' digest."""
        reports = {"last": self.last, "best": self.best, "val": self.tested_on}
        return {**super().state_dict(), **reports}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        super().load_state_dict(state)
        self.last, self.best = dict(state["last"]), dict(state["best"])
        if self.best and state.get("val", self.tested_on) != self.tested_on:
            self.best = {}  # accuracies on two test sets cannot be compared
            if self.world.is_main:
                log.warning("the test images have changed: the best of the remaining epochs "
                            "is kept")  # fmt: skip
        path = self.output_dir / BEST
        self.best_is_kept = not self.best or _same(_report_with(path), self.best)
        if not self.best_is_kept and self.world.is_main:
            log.warning("%s is not of epoch %d, the best so far: the best of the remaining "
                        "epochs is kept there", path, self.best["epoch"])  # fmt: skip

    def _keep(self) -> None:
        if self.world.is_main:
            content = {
                "model": self.student.state_dict(),
                "args": self.args,
                "metrics": self.best,
                "epoch": self.best["epoch"],
                "fastimae_format": FORMAT,
            }
            try:
                save_checkpoint(self.output_dir / BEST, content)
            except CheckpointError as error:
                log.warning("%s; the run continues", error)


def _report_with(path: Path) -> dict[str, Any]:
    """Read the report that was saved with the best weights; {} if the file cannot be read."""
    try:
        return read(path, mmap=True).get("metrics", {})
    except CheckpointError:
        return {}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two reports are equal; NaN, of a class without images, is equal to itself."""
    return repr(sorted(one.items())) == repr(sorted(other.items()))
