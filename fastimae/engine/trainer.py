"""The training loop: steps, epochs, checkpoints, and a clean stop on signals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastimae.engine.averaged_weights import resume_average
from fastimae.engine.checkpoint import FORMAT, LAST, CheckpointError
from fastimae.engine.cores import SHARED, Cores
from fastimae.engine.distributed import World
from fastimae.engine.feed import Feed, open_feed
from fastimae.engine.memory import peak_memory
from fastimae.engine.metrics import Clock, LossMeter
from fastimae.engine.optim import load_optimizer, optimizer_state
from fastimae.engine.parallel import is_sharded
from fastimae.engine.plan import Plan
from fastimae.engine.profile import Profile
from fastimae.engine.reporting import reporting
from fastimae.engine.resolution import size_text
from fastimae.engine.resume import (
    EXTRA,
    check_epochs,
    load_models,
    loader_state,
)
from fastimae.engine.run_file import RunFile
from fastimae.engine.save_timer import SaveTimer
from fastimae.engine.signals import stop_signals
from fastimae.engine.statistics import load_statistics
from fastimae.engine.step import Step
from fastimae.engine.throttle import Throttle
from fastimae.engine.write_checkpoints import write_checkpoints
from fastimae.log import log


class Trainer:
    """Trains an objective on a loader's batches, of any kind.

    loader: yields batches on the device, see `fastimae.loaders.DevicePrefetch`. Only a
        `GraphedStep` needs its `example`.
    args: plain settings to save in checkpoints.
    draw: called when a picture is due, in all processes if the objective is sharded; returns the
        file that it has drawn to, if any.
    probe: called with each epoch that is over; returns values for its line, {} if no probe is due.
    run_file: writes the folder's run.yaml; by default with `args` as its settings.
    cores: CPU cores for computing and loading.
    full_speed: images per second at which all devices would run at their peak, for `mfu`.
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
        draw: Callable[[], Path | None] | None = None,
        probe: Callable[[int], dict[str, float]] | None = None,
        cores: Cores = SHARED,
        full_speed: float | None = None,
        run_file: RunFile | None = None,
    ) -> None:
        if world.size > 1 and not step.replica.averages:
            raise ValueError("several processes that do not average gradients: see `parallelise`")
        self.step, self.objective, self.optimizer = step, step.objective, step.optimizer
        self.loader, self.plan, self.world = loader, plan, world
        self.output_dir, self.log_dir = output_dir, plan.log_dir or output_dir
        self.args, self.draw, self.probe, self.cores = args or {}, draw, probe, cores
        self.run_file = run_file or RunFile(output_dir, self.args)
        self.profile = Profile(output_dir, world.rank) if plan.profile else None
        self.meter = LossMeter(world, output_dir)
        self.window, self.epoch_clock = Clock(full_speed), Clock(full_speed)
        self.updates_per_epoch = len(loader) // plan.accum_iter
        self.throttle = Throttle(world.device)
        self.save_timer = SaveTimer(plan.save_seconds, world)
        self.epoch, self.update = 0, 0
        self.image_size: tuple[int, int] | None = None
        """That of --resolution_schedule; None: the loader's."""
        self.asked_to_stop = self.stopped = False

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.plan.epochs

    def run(self) -> bool:
        """Train to the end of the plan. Returns False if a signal stopped it early.

        A signal saves checkpoint-last.pth after the current step. Raises NonFiniteLoss,
        CheckpointError, ProcessLost, or what the loader raises.
        """
        if self.finished:
            return True
        self.first_step = True
        self.cores.pin()
        closing = contextlib.closing(self.profile) if self.profile else contextlib.nullcontext()
        with (
            closing,
            reporting(self) as self.reporter,
            stop_signals(self.plan.preempt_signal, self._ask_to_stop),
            self.world.watched(),
        ):
            while not self.finished and not self.stopped:
                self._train_epoch()
                if self.update == self.updates_per_epoch:
                    self._finish_epoch()
                else:
                    self._save(last=True)
            self.world.any(False)  # the main process, which hosts the store, leaves last
        if not self.finished:
            last = self.output_dir / LAST
            log.info("stopped and saved: add --resume auto to continue from %s", last)
        return self.finished

    @property
    def point(self) -> float:
        """The epochs trained so far, with the part of the current one."""
        return self.epoch + self.update / self.updates_per_epoch

    def _train_epoch(self) -> None:
        """Train to the end of the current epoch, or until a signal stops it."""
        self.objective.train()
        if self.loader.epoch != self.epoch:
            self.loader.set_epoch(self.epoch)
        self._follow_schedule()
        with open_feed(self) as feed:
            self.window.restart()
            self.epoch_clock.restart()
            while self.update < self.updates_per_epoch and not self.stopped:
                self._train_step(feed)
                if read := self._losses_are_due():
                    self._read_losses()
                else:
                    self.reporter.console.show_between(self._rates)
                self.stopped = self.world.should_stop(self.asked_to_stop)
                later = self.stopped or self.update == self.updates_per_epoch  # after the log line
                every = self.plan.save_steps
                due = every and self.update % every == 0
                # When losses have been read, asking the others if it is time delays no step.
                if not later and (due or (read and self.save_timer.is_due(within=True))):
                    self._save()

    def _follow_schedule(self) -> None:
        """Let loader, step and MFU have the image size of this epoch."""
        size = self.plan.size_at(self.epoch)
        if size == self.image_size:
            return
        before = self.objective.train_flops()
        self.step.set_image_size(size)
        self.loader.set_image_size(size)
        self.image_size = size
        for clock in (self.window, self.epoch_clock):
            if clock.full_speed:
                clock.full_speed *= before / self.objective.train_flops()
        log.info("epoch %d: images of %s pixels from now on", self.epoch + 1, size_text(size))

    def _train_step(self, feed: Feed) -> None:
        """Take an optimizer step, or as many as a feed can until the host has something to do."""
        count = self._steps_to_take(feed.longest)
        first, each = self.epoch, self.updates_per_epoch
        points = [first + update / each for update in range(self.update, self.update + count)]
        rates = [self.plan.lr_at(point, self.world) for point in points]
        images = feed.take(rates) * self.world.size
        for clock in (self.window, self.epoch_clock):
            clock.images += images
        self.lr = rates[-1]
        self.throttle.wait()
        self.update += count
        self.reporter.console.advance(count)
        if self.profile:
            self.profile.step(count)

    def _steps_to_take(self, longest: int) -> int:
        """Return how many steps there are until losses are read, a checkpoint is saved, the epoch
        ends, or the profiler starts or stops."""
        if self.first_step:
            return 1
        every = [n for n in (self.plan.log_steps, self.plan.save_steps) if n]
        left = [n - self.update % n for n in (*every, self.updates_per_epoch)]
        return min(longest, *left, *([self.profile.steps_left()] if self.profile else []))

    def _losses_are_due(self) -> bool:
        """Return whether to read the losses: after the first step, every log_steps, and at the end
        of an epoch. The same in all processes, as they average them."""
        first, self.first_step = self.first_step, False
        last = self.update == self.updates_per_epoch
        return first or last or self.update % self.plan.log_steps == 0

    def _read_losses(self) -> None:
        """Read the losses since the last call, and show them with the speed since then."""
        values = self.meter.read()
        if values:
            self.reporter.step(self.point, {**values, **self._rates()})
        self.window.restart()

    def _rates(self) -> dict[str, float]:
        """Return the learning rate, and speed and memory since the losses were read."""
        return {"lr": self.lr, **self._pace(self.window)}

    def _pace(self, clock: Clock) -> dict[str, float]:
        """Return speed, and peak memory if known."""
        memory = peak_memory(self.world.device)
        return clock.rates() | ({} if memory is None else {"memory_gb": memory / 1e9})

    def _finish_epoch(self) -> None:
        """Write the epoch's log line, checkpoint and picture."""
        means = {f"train_{name}": value for name, value in self.meter.epoch_means().items()}
        line = {
            "train_lr": self.lr,
            **means,
            "epoch": self.epoch,
            **{name: round(value, 4) for name, value in self._pace(self.epoch_clock).items()},
            **({"input_size": self.image_size[0]} if self.image_size else {}),
            **self.loader.report(),
            **(self.probe(self.epoch) if self.probe else {}),
        }
        self.reporter.epoch(line, self.epoch_clock.seconds)
        last = self.epoch + 1 == self.plan.epochs
        keep = last or self.epoch % self.plan.save_freq == 0
        numbered = self.output_dir / f"checkpoint-{self.epoch}.pth"
        if keep or self.stopped or self.save_timer.is_due(within=False):
            self._save(numbered if keep else None, last=last or self.stopped)
        picture_due = self.plan.vis_freq and self.epoch % self.plan.vis_freq == 0
        drawing = self.world.is_main or is_sharded(self.objective)
        if self.draw and drawing and (last or picture_due):
            self.objective.eval()
            with torch.compiler.set_stance("force_eager"):  # new shapes are not worth compiling
                picture = self.draw()
            if picture:
                self.reporter.picture(picture, self.epoch)
        self.meter.reset()
        self.epoch, self.update = self.epoch + 1, 0

    def _save(self, also: Path | None = None, *, last: bool = False) -> None:
        """Write checkpoint-last.pth, and a copy under the name `also` if given.

        last: of the run, so that a failure is an error; otherwise it is a warning.
        """
        self._read_losses()
        write_checkpoints(self, also, last=last)
        self.save_timer.restart()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs, as plain data and tensors."""
        extra = self.objective.extra_state()
        return {
            "model": self.objective.student.state_dict(),
            **({EXTRA: extra} if extra else {}),
            **(self.step.average.state() if self.step.average else {}),
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
        """Continue from a checkpoint's content; `EpochSteps.resume` explains at which step.

        weights_flag: the flag that starts a run from mere weights. Raises CheckpointError if the
        content does not fit.
        """
        load_models(self.objective, state, self.args, path, weights_flag)
        resume_average(self.step.average, state)
        load_statistics(self.objective, state, self.world)
        try:
            load_optimizer(self.optimizer, state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"--resume {path}: {error}") from error
        self.step.load_scaler(state["scaler"])
        self.loader.load_state_dict(loader_state(state))
        position = self.loader.state_dict()
        self.epoch, self.update = position["epoch"], position["step"] // self.plan.accum_iter
        self.meter.load_state_dict(state["metrics"])
        self.meter.reweigh(position["step"])
        if self.update == self.updates_per_epoch:  # saved at the end of an epoch
            self.epoch, self.update = self.epoch + 1, 0
            self.meter.reset()
        check_epochs(path, self.epoch, self.update, self.plan.epochs)

    def _ask_to_stop(self) -> None:
        self.asked_to_stop = True
        log.warning("stopping after this step and saving (again to stop at once)")
