"""The training loop: steps, epochs, checkpoints, and stopping well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.checkpoint import (
    FORMAT,
    LAST,
    CheckpointError,
    load_weights,
    numbered,
    save_checkpoint,
)
from fastimae.engine.cores import SHARED, Cores
from fastimae.engine.distributed import World
from fastimae.engine.files import RUN
from fastimae.engine.memory import peak_memory
from fastimae.engine.metrics import Clock, LossMeter, Reporter
from fastimae.engine.optim import load_optimizer, optimizer_state
from fastimae.engine.parallel import is_sharded
from fastimae.engine.plan import Plan
from fastimae.engine.profile import Profile
from fastimae.engine.resume import (
    EXTRA,
    check_epochs,
    check_resumable,
    check_same_extra,
    loader_state,
)
from fastimae.engine.sharded import laid_out, save_sharded
from fastimae.engine.signals import stop_signals
from fastimae.engine.statistics import load_statistics, statistics_of_all
from fastimae.engine.step import GraphedStep, Step, seed_draws
from fastimae.engine.throttle import Throttle
from fastimae.log import log


class Trainer:
    """Takes steps on a loader's batches. Knows neither what they are nor where from.

    loader: see `fastimae.loaders.DevicePrefetch`; its batches are on the device. Only a
        `GraphedStep` needs its `example`.
    args: plain settings to keep in checkpoints.
    draw: called with a batch when a picture is due, in all processes if the objective is sharded.
    cores: of a CPU, for computing and loading.
    full_speed: images a second at which all devices would be at their peak, for `mfu`.
    """

    def __init__(
        self,
        step: Step,
        loader: Any,
        plan: Plan,
        world: World,
        output_dir: Path,
        *,
        args: dict[str, Any] | None = None,
        draw: Callable[[Any], None] | None = None,
        cores: Cores = SHARED,
        full_speed: float | None = None,
    ) -> None:
        if world.size > 1 and step.called is step.objective and not is_sharded(step.objective):
            raise ValueError("several processes that share no gradients: see `parallelise`")
        self.step, self.objective, self.optimizer = step, step.objective, step.optimizer
        self.loader, self.plan, self.world = loader, plan, world
        self.output_dir, self.log_dir = output_dir, plan.log_dir or output_dir
        self.args, self.draw, self.cores = args or {}, draw, cores
        self.profile = Profile(output_dir, world.rank) if plan.profile else None
        self.meter = LossMeter(world, output_dir)
        self.window, self.epoch_clock = Clock(full_speed), Clock(full_speed)
        self.updates_per_epoch = len(loader) // plan.accum_iter
        self.throttle = Throttle(world.device)
        self.epoch, self.update = 0, 0
        self.asked_to_stop = self.stopped = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.plan.epochs

    def run(self) -> bool:
        """Train to the end of the plan. Returns False where a signal ended it early.

        Signals save checkpoint-last.pth after the step under way. Raises NonFiniteLoss,
        CheckpointError, ProcessLost, or what the loader raises.
        """
        if self.finished:
            return True
        total = self.plan.epochs * self.updates_per_epoch
        done = self.epoch * self.updates_per_epoch + self.update
        self.reporter = Reporter(
            self.world, self.output_dir, self.log_dir,
            epochs=self.plan.epochs, total=total, done=done, run=self.args.get(RUN, ""),
        )  # fmt: skip
        self.reporter.forget_from(self.epoch)
        self.cores.pin()
        try:
            with stop_signals(self.plan.preempt_signal, self._ask_to_stop), self.world.watched():
                while not self.finished and not self.stopped:
                    self._train_epoch()
                    if self.update == self.updates_per_epoch:
                        self._finish_epoch()
                    else:
                        self._save()
                self.world.any(False)  # the main process, which has the store, leaves last
        finally:
            self.reporter.close()
            if self.profile:
                self.profile.close()
        if not self.finished:
            last = self.output_dir / LAST
            log.info("stopped and saved: add --resume auto to go on from %s", last)
        return self.finished

    def _train_epoch(self) -> None:
        """Train from where the epoch stands to its end, or to a signal's stop."""
        self.objective.train()
        if self.loader.epoch != self.epoch:
            self.loader.set_epoch(self.epoch)
        if isinstance(self.step, GraphedStep) and not self.step.prepared:
            self.step.prepare(self.loader.example())  # before the loader's threads use CUDA
        self.window.restart()
        self.epoch_clock.restart()
        with contextlib.closing(iter(self.loader)) as batches:
            timed = self.epoch_clock.timed(self.window.timed(self.cores.batches(batches)))
            while self.update < self.updates_per_epoch and not self.stopped:
                self._train_step(timed)
                if self.update % self.plan.log_steps == 0 or self.update == self.updates_per_epoch:
                    self._read_losses()
                self.stopped = self.world.stops(self.asked_to_stop)
                within = self.update < self.updates_per_epoch  # the log line comes before its save
                if within and self.plan.save_steps and self.update % self.plan.save_steps == 0:
                    self._save()

    def _train_step(self, batches: Iterator) -> None:
        """One optimizer step on the next accum_iter batches."""
        count = self.plan.accum_iter
        for micro in range(count):
            self.batch = next(batches)
            place = self.epoch, self.update, micro, self.world.rank
            seed_draws(self.world.device, self.plan.seed, *place)
            parts = self.step.accumulate(self.batch, last=micro == count - 1)
            self.meter.add(parts, self.epoch, self.update, self.batch.index)
            for clock in (self.window, self.epoch_clock):
                clock.images += len(self.batch) * self.world.size
        point = self.epoch + self.update / self.updates_per_epoch
        self.lr = self.plan.lr_at(point, self.world)
        self.step.update(self.lr)
        self.throttle.wait()
        self.update += 1
        self.reporter.bar.update()
        if self.profile:
            self.profile.step()

    def _read_losses(self) -> None:
        values = self.meter.read()
        if values:
            point = self.epoch + self.update / self.updates_per_epoch
            values = {**values, "lr": self.lr, **self._pace(self.window)}
            self.reporter.step(point, values)
        self.window.restart()

    def _pace(self, clock: Clock) -> dict[str, float]:
        """How fast, and with how much memory at most, as far as that can be told."""
        memory = peak_memory(self.world.device)
        return clock.rates() | ({} if memory is None else {"memory_gb": memory / 1e9})

    def _finish_epoch(self) -> None:
        means = {f"train_{name}": value for name, value in self.meter.epoch_means().items()}
        line = {
            "train_lr": self.lr,
            **means,
            "epoch": self.epoch,
            **{name: round(value, 4) for name, value in self._pace(self.epoch_clock).items()},
            **self.loader.report(),
        }
        self.reporter.epoch(line)
        last = self.epoch + 1 == self.plan.epochs
        keep = last or self.epoch % self.plan.save_freq == 0
        self._save(self.output_dir / f"checkpoint-{self.epoch}.pth" if keep else None)
        picture_due = self.plan.vis_freq and self.epoch % self.plan.vis_freq == 0
        drawing = self.world.is_main or is_sharded(self.objective)
        if self.draw and drawing and (last or picture_due):
            self.objective.eval()
            with torch.compiler.set_stance("force_eager"):  # other shapes are not worth compiling
                self.draw(self.batch)
        self.meter.reset()
        self.epoch, self.update = self.epoch + 1, 0

    def _save(self, also: Path | None = None) -> None:
        """Write checkpoint-last.pth, and a copy to keep under another name."""
        self._read_losses()
        path = self.output_dir / LAST
        more = statistics_of_all(self.objective, self.world)
        if is_sharded(self.objective):
            save_sharded(path, self.state_dict() | more, self.world, also)
        elif self.world.is_main:
            save_checkpoint(path, self.state_dict() | more, also)
        if also and self.world.is_main and self.plan.checkpoint_hist:
            kept = numbered(self.output_dir)  # and some of later epochs, of a run gone back on
            for old in kept[: kept.index(also) + 1][: -self.plan.checkpoint_hist]:
                old.unlink()

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; plain data and tensors only."""
        extra = self.objective.extra_state()
        return {
            "model": self.objective.student.state_dict(),
            **({EXTRA: extra} if extra else {}),
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.step.scaler_state(),
            "epoch": self.epoch,
            "step": self.update,
            "args": self.args,
            "loader": self.loader.state_dict(),
            "metrics": self.meter.state_dict(),
            "fastimae_format": FORMAT,
        }

    def load_state_dict(
        self, state: dict[str, Any], path: Path, weights_flag: str = "--init"
    ) -> None:
        """Go on from a checkpoint's content: see `EpochSteps.resume` for where.

        weights_flag: what a run starts from mere weights with. Raises CheckpointError where it
        does not fit.
        """
        extra = self.objective.extra_state()
        check_resumable(state, self.state_dict(), path, weights_flag)
        check_same_extra(state, extra, path)
        load_weights(
            self.objective.student, state["model"], path, size_hint=": give the flags of before"
        )
        for name, tensor in extra.items():
            tensor.copy_(laid_out(state[EXTRA][name], tensor))
        load_statistics(self.objective, state, self.world)
        try:
            load_optimizer(self.optimizer, state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"--resume {path}: {error}") from error
        self.step.load_scaler(state["scaler"])
        self.loader.load_state_dict(loader_state(state))
        place = self.loader.state_dict()
        self.epoch, self.update = place["epoch"], place["step"] // self.plan.accum_iter
        self.meter.load_state_dict(state["metrics"])
        self.meter.stand_for(place["step"])
        if self.update == self.updates_per_epoch:  # saved at the end of an epoch
            self.epoch, self.update = self.epoch + 1, 0
            self.meter.reset()
        check_epochs(path, self.epoch, self.update, self.plan.epochs)

    def _ask_to_stop(self) -> None:
        self.asked_to_stop = True
        log.warning("stopping after this step and saving (again to stop at once)")
