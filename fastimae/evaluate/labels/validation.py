"""Validation after each epoch, in the log, with the best weights kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.engine.checkpoint import FORMAT, save_checkpoint
from fastimae.engine.checkpoint_file import CheckpointError, read
from fastimae.engine.distributed import World
from fastimae.engine.settings import Precision
from fastimae.evaluate.features import inference
from fastimae.evaluate.labels.accuracy import hits, percentages
from fastimae.evaluate.options.labels import BEST
from fastimae.loaders import DevicePrefetch
from fastimae.log import log

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def validate(
    student: nn.Module, batches: Batches, world: World, precision: Precision
) -> dict[str, float]:
    """Return {"test_loss", "test_acc1", "test_acc5"}, in percent, over all ranks' batches.

    batches: (inputs, int64 labels) of this rank, on its device. Leaves the student in eval mode.
    """
    student.eval()
    counts = torch.zeros(4, dtype=torch.float64, device=world.device)
    for inputs, labels in batches:
        # Blocks that differ in drop_path are compiled one by one: too slow to do again for this.
        with torch.compiler.set_stance("force_eager"), inference(world.device, precision):
            logits = student(inputs).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        counts[0] += loss
        counts[1:3] += hits(logits, labels)
        counts[3] += len(labels)
    loss, *correct, total = world.mean(counts) * world.size
    accuracies = percentages(torch.stack(correct), int(total))
    return {
        "test_loss": float(loss / total.clamp(min=1)),
        **{f"test_{name}": value for name, value in accuracies.items()},
    }


class ValidatingLoader(DevicePrefetch):
    """A loader that validates: its `report`, at the end of an epoch, has the student's accuracy.

    `last` and `best` are the reports of the last and the best epoch, {} before the first; the best
    weights are in `checkpoint-best.pth`. If that file is not of a resumed run's best epoch, or the
    test images have changed, the best of the remaining epochs is kept.
    """

    def __init__(
        self,
        loader: Any,
        student: nn.Module,
        batches: Callable[[], Batches],
        world: World,
        *,
        precision: Precision,
        output_dir: Path,
        args: dict[str, Any],
        tested_on: int,
    ) -> None:
        """batches: returns this rank's validation batches. args: settings for the checkpoint.

        tested_on: `Images.view_digest` of the test images.
        """
        super().__init__(loader, world.device)
        self.student, self.batches = student, batches
        self.world, self.precision = world, precision
        self.output_dir, self.args, self.tested_on = output_dir, args, tested_on
        self.last: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.best_is_kept = True

    def report(self) -> dict[str, Any]:
        """Validate, keep the weights if they are the best, and return all entries for the log."""
        self._share_statistics()
        result = validate(self.student, self.batches(), self.world, self.precision)
        self.last = {"epoch": self.epoch, **result}
        better = result["test_acc1"] > self.best.get("test_acc1", -1.0)
        if better or not self.best_is_kept:
            self.best, self.best_is_kept = self.last, True
            self._keep()
        return {**super().report(), **result}

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
        self.best_is_kept = not self.best or _report_with(path) == self.best
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
    """Read the report that was saved with a classifier; {} if the file cannot be read."""
    try:
        return read(path, mmap=True).get("metrics", {})
    except CheckpointError:
        return {}
