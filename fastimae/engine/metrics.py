"""What a run reports while it trains: losses and speed, on the console and to its sinks."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.best_effort import best_effort
from fastimae.engine.console import MEASURES, Console
from fastimae.engine.distributed import World
from fastimae.engine.sink import Sink
from fastimae.folders import write_text


class NonFiniteLoss(Exception):
    """A loss is NaN or infinite. The message names the file with the batch's samples."""


@dataclasses.dataclass(frozen=True)
class Block:
    """The losses of some micro-steps, one after the other."""

    values: Tensor
    """fp32 [micro-steps, parts], on the device."""
    epoch: int
    step: int
    """The step of the first one."""
    accum_iter: int
    """Micro-steps of a step, if these are of several."""
    samples: Callable[[int], Tensor]
    """Returns the samples, int64 [B], of a row of `values`."""


class LossMeter:
    """Collects the parts of each micro-step's loss on the device; reads them only on demand."""

    def __init__(self, world: World, output_dir: Path) -> None:
        self.world, self.output_dir = world, output_dir
        self.names: list[str] = []
        self.sums: list[float] = []
        self.count = 0
        self._pending: list[Block] = []

    def add(self, parts: dict[str, Tensor], epoch: int, step: int, index: Tensor) -> None:
        """Add a micro-step: parts of its loss, scalars on the device; its samples, int64 [B]."""
        values = torch.stack([part.detach() for part in parts.values()])
        self.add_steps(list(parts), values[None], epoch, step, 1, lambda _: index)

    def add_steps(
        self,
        names: list[str],
        values: Tensor,
        epoch: int,
        step: int,
        accum_iter: int,
        samples: Callable[[int], Tensor],
    ) -> None:
        """Add micro-steps from the first one of `step` on: see `Block`."""
        self.names = names
        self._pending.append(Block(values.float(), epoch, step, accum_iter, samples))

    def read(self) -> dict[str, float]:
        """Wait for the losses added since the last call; return means over steps and processes.

        Raises NonFiniteLoss in every process if any loss in any process is not finite.
        """
        if not self._pending:
            return {}
        values = torch.cat([block.values for block in self._pending])
        self._stop_if_not_finite(values.cpu())
        means = self.world.mean(values.double()).cpu()
        for row in means.tolist():  # one by one: sums must not depend on how often they are read
            before = self.sums or [0.0] * len(self.names)
            self.sums = [a + b for a, b in zip(before, row, strict=True)]
        self.count += len(values)
        self._pending = []
        return dict(zip(self.names, means.mean(0).tolist(), strict=True))

    def epoch_means(self) -> dict[str, float]:
        """Return the means of everything read since `reset`."""
        return {n: s / max(self.count, 1) for n, s in zip(self.names, self.sums, strict=True)}

    def reset(self) -> None:
        """Begin a new epoch."""
        self.sums, self.count = [], 0

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sums so far, for a checkpoint within it."""
        return {"names": self.names, "sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`."""
        self.names, self.sums = list(state["names"]), list(state["sums"])
        self.count = state["count"]

    def reweigh(self, count: int) -> None:
        """Give the epoch's mean so far the weight of `count` micro-steps: after a resume, they may
        have another size, and some are repeated."""
        if self.count and count != self.count:
            self.sums = [value / self.count * count for value in self.sums]
            self.count = count

    def _stop_if_not_finite(self, values: Tensor) -> None:
        finite = values.isfinite().all(1)
        first = int((~finite).float().argmax())
        path = self.output_dir / f"nonfinite-rank{self.world.rank}.json"
        if not finite.all():
            parts = {n: str(v) for n, v in zip(self.names, values[first].tolist(), strict=True)}
            report = {**self._origin(first), "parts": parts}
            with best_effort(path):
                write_text(path, json.dumps(report) + "\n")
        if self.world.any(not finite.all()):
            raise NonFiniteLoss(
                f"the loss is not finite: its samples are in {path}; try --precision bf16 or "
                "fp32, --clip_grad 1, or a smaller --blr (checkpoints are from before it)"
            )

    def _origin(self, row: int) -> dict[str, Any]:
        """Return the epoch, step and samples of a row of everything pending."""
        for block in self._pending:
            if row < len(block.values):
                step = block.step + row // block.accum_iter
                samples = block.samples(row).tolist()
                return {"epoch": block.epoch, "step": step, "samples": samples}
            row -= len(block.values)
        raise IndexError(row)


class Clock:
    """A clock for images per second, MFU, and the share of time spent waiting for data.

    full_speed: images per second at which the devices would run at their peak, if known.
    """

    def __init__(self, full_speed: float | None = None) -> None:
        self.full_speed = full_speed
        self.restart()

    def restart(self) -> None:
        """Begin a new interval."""
        self.started, self.waited, self.images = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator) -> Iterator:
        """Yield the same batches; the time to get each one counts as waiting."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    @property
    def seconds(self) -> float:
        """How long the interval has lasted."""
        return time.perf_counter() - self.started

    def rates(self) -> dict[str, float]:
        """Return this interval's "img_per_s", "mfu" (in 0..1, if full_speed is known) and
        "data_wait" (its share of the interval, in 0..1)."""
        elapsed = max(self.seconds, 1e-9)
        speed = self.images / elapsed
        mfu = {"mfu": speed / self.full_speed} if self.full_speed else {}
        return {"img_per_s": speed, **mfu, "data_wait": self.waited / elapsed}


class Reporter:
    """Shows values on the console, and passes them to sinks: log.txt, TensorBoard, W&B."""

    def __init__(
        self, world: World, sinks: Sequence[Sink], *, epochs: int, total: int, done: int
    ) -> None:
        """Open the console. epochs, total: epochs and optimizer steps of the complete run. done:
        steps already taken."""
        self.sinks = sinks
        self.console = Console(epochs=epochs, total=total, done=done, quiet=not world.is_main)

    def step(self, epoch: float, values: dict[str, float]) -> None:
        """Show values on the console, and pass them to the sinks."""
        self.console.show(values)
        for sink in self.sinks:
            sink.step({_tag(name): value for name, value in values.items()}, round(epoch * 1000))

    def epoch(self, values: dict[str, Any], seconds: float) -> None:
        """Show the values of a finished epoch, and pass them to the sinks. seconds: how long the
        epoch took."""
        self.console.finish_epoch(
            {name.removeprefix("train_"): value for name, value in values.items()}, seconds
        )
        for sink in self.sinks:
            sink.epoch(values, 1000 * (values["epoch"] + 1))

    def picture(self, path: Path, epoch: int) -> None:
        """Pass the picture of a finished epoch to the sinks."""
        for sink in self.sinks:
            sink.picture(path, 1000 * (epoch + 1))

    def close(self, outcome: str) -> None:
        """Close the console and the sinks. outcome: see `fastimae.engine.run_file`."""
        self.console.close()
        for sink in self.sinks:
            sink.close(outcome)


def _tag(name: str) -> str:
    """Return the name of a value's curve: losses have MAE's prefix."""
    return name if name in MEASURES else f"train_{name}"
