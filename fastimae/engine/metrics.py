"""What a run tells while it runs: losses read rarely, speed, log.txt, TensorBoard, a bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from fastimae.engine.distributed import World
from fastimae.engine.leftovers import mark
from fastimae.folders import write_text

ON_THE_BAR = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "img_per_s": "{:.0f} img/s",
    "mfu": "MFU {:.0%}",
    "memory_gb": "{:.1f} GB",
    "data_wait": "waiting {:.0%}",
}


class NonFiniteLoss(Exception):
    """A loss became NaN or infinite. The message names the file with the batch's samples."""


class LossMeter:
    """Collects the parts of each micro-step's loss on the device; reads them when told to."""

    def __init__(self, world: World, output_dir: Path) -> None:
        self.world, self.output_dir = world, output_dir
        self.names: list[str] = []
        self.sums: list[float] = []
        self.count = 0
        self._pending: list[Tensor] = []
        self._samples: list[tuple[int, int, Tensor]] = []

    def add(self, parts: dict[str, Tensor], epoch: int, step: int, index: Tensor) -> None:
        """Note a micro-step: its parts (scalars on the device) and its samples, int64 [B]."""
        self.names = list(parts)
        self._pending.append(torch.stack([part.detach().float() for part in parts.values()]))
        self._samples.append((epoch, step, index))

    def read(self) -> dict[str, float]:
        """Wait for what was added since the last reading; its mean over steps and processes.

        Raises NonFiniteLoss in every process if one loss in any process is not finite.
        """
        if not self._pending:
            return {}
        values = torch.stack(self._pending)
        self._stop_if_not_finite(values.cpu())
        means = self.world.mean(values.double()).cpu()
        for row in means.tolist():  # one by one: the sum must not tell how often it was read
            before = self.sums or [0.0] * len(self.names)
            self.sums = [a + b for a, b in zip(before, row, strict=True)]
        self.count += len(values)
        self._pending, self._samples = [], []
        return dict(zip(self.names, means.mean(0).tolist(), strict=True))

    def epoch_means(self) -> dict[str, float]:
        """Means of everything read since `reset`."""
        return {n: s / max(self.count, 1) for n, s in zip(self.names, self.sums, strict=True)}

    def reset(self) -> None:
        """Begin a new epoch."""
        self.sums, self.count = [], 0

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far, for a checkpoint within it."""
        return {"names": self.names, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.names, self.sums = list(state["names"]), list(state["sums"])
        self.count = state["count"]

    def stand_for(self, count: int) -> None:
        """Let the mean of the epoch so far weigh as much as `count` micro-steps: after a resume,
        those are of another size, and some are to be done again."""
        if self.count and count != self.count:
            self.sums = [value / self.count * count for value in self.sums]
            self.count = count

    def _stop_if_not_finite(self, values: Tensor) -> None:
        finite = values.isfinite().all(1)
        first = int((~finite).float().argmax())
        path = self.output_dir / f"nonfinite-rank{self.world.rank}.json"
        if not finite.all():
            epoch, step, index = self._samples[first]
            parts = {n: str(v) for n, v in zip(self.names, values[first].tolist(), strict=True)}
            report = {"epoch": epoch, "step": step, "parts": parts, "samples": index.tolist()}
            write_text(path, json.dumps(report) + "\n")
        if self.world.any(not finite.all()):
            raise NonFiniteLoss(
                f"the loss is not finite: its samples are in {path}; try --precision bf16 or "
                "fp32, --clip_grad 1, or a smaller --blr (checkpoints are from before it)"
            )


class Clock:
    """Images per second, the share of the devices' peak that they take, and the share of time spent
    waiting for data.

    full_speed: images per second at which the devices would be at their peak, if that is known.
    """

    def __init__(self, full_speed: float | None = None) -> None:
        self.full_speed = full_speed
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.started, self.waited, self.images = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator) -> Iterator:
        """The same batches; the time to get each counts as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def rates(self) -> dict[str, float]:
        """{"img_per_s": of this interval, "mfu": where full_speed is known, in 0..1, "data_wait":
        share of the interval in 0..1}."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        speed = self.images / elapsed
        mfu = {"mfu": speed / self.full_speed} if self.full_speed else {}
        return {"img_per_s": speed, **mfu, "data_wait": self.waited / elapsed}


class Reporter:
    """Writes log.txt (a JSON object an epoch, with MAE's keys), TensorBoard and the bar."""

    def __init__(
        self, world: World, output_dir: Path, log_dir: Path, *,
        epochs: int, total: int, done: int, run: str = "",
    ) -> None:  # fmt: skip
        """epochs, total: of the whole run, in optimizer steps. done: steps already taken. run: what
        tells the run from others."""
        self.epochs = epochs
        self.log_file = output_dir / "log.txt"
        self.board = None
        if world.is_main:  # what an earlier process wrote past its last checkpoint is dropped
            purge = round(1000 * epochs * done / total) + 1 if done else None
            self.board = SummaryWriter(log_dir, purge_step=purge, filename_suffix=mark(run))
        self.bar = tqdm(
            total=total, initial=done, unit="step", disable=not world.is_main,
            dynamic_ncols=True, smoothing=0.05, mininterval=0.5,
        )  # fmt: skip

    def step(self, epoch: float, values: dict[str, float]) -> None:
        """Show values on the bar, and to TensorBoard against epoch x 1000 as MAE does."""
        self.bar.set_description(f"epoch {math.ceil(epoch)}/{self.epochs}", refresh=False)
        shown = [text.format(values[name]) for name, text in ON_THE_BAR.items() if name in values]
        self.bar.set_postfix_str(", ".join(shown))
        if self.board:
            for name, value in values.items():
                of_the_loss = name == "loss" or name not in ON_THE_BAR  # has MAE's prefix
                tag = f"train_{name}" if of_the_loss else name
                self.board.add_scalar(tag, value, round(epoch * 1000))

    def epoch(self, values: dict[str, Any]) -> None:
        """Append a line to log.txt."""
        if self.board:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
            self.board.flush()

    def forget_from(self, epoch: int) -> None:
        """Drop log.txt's lines of this epoch and later: the resumed run writes them again."""
        if self.board and self.log_file.exists():
            lines = self.log_file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if _epoch_of(line) < epoch]
            if len(kept) < len(lines):
                write_text(self.log_file, "".join(kept))

    def close(self) -> None:
        """Close the bar and TensorBoard's file."""
        self.bar.close()
        if self.board:
            self.board.close()


def _epoch_of(line: str) -> float:
    """Epoch of a log line; a line cut short by a crash counts as the last."""
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return math.inf
