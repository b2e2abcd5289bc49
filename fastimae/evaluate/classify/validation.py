"""Accuracy on validation images after each epoch, in the log, with the best weights kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastimae.engine.checkpoint import FORMAT, save_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.files import CheckpointError, read
from fastimae.engine.precision import Precision
from fastimae.evaluate.classify.accuracy import hits, percentages
from fastimae.evaluate.encoder import inference
from fastimae.loaders import DevicePrefetch
from fastimae.log import log

BEST = "checkpoint-best.pth"
Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def validate(
    student: nn.Module, batches: Batches, world: World, precision: Precision
) -> dict[str, float]:
    """{"test_loss", "test_acc1", "test_acc5"}, accuracies in percent, over all ranks' batches.

    batches: (inputs, int64 labels) of this rank, on its device. The student is in eval mode then.
    """
    student.eval()
    counts = torch.zeros(4, dtype=torch.float64, device=world.device)
    for inputs, labels in batches:
        # Blocks are compiled one by one where their dropped paths differ: not for this, too.
        with torch.compiler.set_stance("force_eager"), inference(world.device, precision):
            logits = student(inputs).float()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        counts[0] += loss
        counts[1:3] += hits(logits, labels)
        counts[3] += len(labels)
    loss, *found, total = world.mean(counts) * world.size
    accuracies = percentages(torch.stack(found), int(total))
    return {
        "test_loss": float(loss / total.clamp(min=1)),
        **{f"test_{name}": value for name, value in accuracies.items()},
    }


class Validated(DevicePrefetch):
    """A loader that validates: its `report`, which ends an epoch, says how well `student` does.

    `last` and `best` are the reports of the last and of the best epoch, {} before the first; the
    best one's weights are in `checkpoint-best.pth`. After a resume from where that is another
    folder's or a later epoch's, or with other images to test on, the best of the epochs to come is
    kept.
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
        """batches: makes this rank's validation batches. args: settings for the checkpoint.
        tested_on: `Images.as_tested`."""
        super().__init__(loader, world.device)
        self.student, self.batches = student, batches
        self.world, self.precision = world, precision
        self.output_dir, self.args, self.tested_on = output_dir, args, tested_on
        self.last: dict[str, Any] = {}
        self.best: dict[str, Any] = {}
        self.best_is_kept = True

    def report(self) -> dict[str, Any]:
        """The loader's own line, and `validate`'s."""
        self._share_statistics()
        result = validate(self.student, self.batches(), self.world, self.precision)
        self.last = {"epoch": self.epoch, **result}
        better = result["test_acc1"] > self.best.get("test_acc1", -1.0)
        if better or not self.best_is_kept:
            self.best, self.best_is_kept = self.last, True
            self._keep()
        return {**super().report(), **result}

    def _share_statistics(self) -> None:
        """Make one of the ranks' running means and variances."""
        for buffer in self.student.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.world.mean(buffer))

    def state_dict(self) -> dict[str, Any]:
        """The loader's, the reports so far, and which images these are of."""
        reports = {"last": self.last, "best": self.best, "val": self.tested_on}
        return {**super().state_dict(), **reports}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        super().load_state_dict(state)
        self.last, self.best = dict(state["last"]), dict(state["best"])
        if self.best and state.get("val", self.tested_on) != self.tested_on:
            self.best = {}  # of accuracies on two test sets none is the best
            if self.world.is_main:
                log.warning("other images to test on than before: the best is that of the epochs "
                            "to come")  # fmt: skip
        path = self.output_dir / BEST
        self.best_is_kept = not self.best or _report_with(path) == self.best
        if not self.best_is_kept and self.world.is_main:
            log.warning("%s is not of epoch %d, which was the best before: the best of those to "
                        "come is kept there", path, self.best["epoch"])  # fmt: skip

    def _keep(self) -> None:
        if self.world.is_main:
            content = {
                "model": self.student.state_dict(),
                "args": self.args,
                "metrics": self.best,
                "epoch": self.best["epoch"],
                "fastimae_format": FORMAT,
            }
            save_checkpoint(self.output_dir / BEST, content)


def _report_with(path: Path) -> dict[str, Any]:
    """The report that a kept classifier came with, {} where there is none to be read."""
    try:
        return read(path, mmap=True).get("metrics", {})
    except CheckpointError:
        return {}
