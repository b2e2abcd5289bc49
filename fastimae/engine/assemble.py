"""From an objective, a loader and settings to a trainer that is ready to run: the one assembly."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastimae.engine.checkpoint import find_resume, load_checkpoint
from fastimae.engine.cores import Cores, cores_here
from fastimae.engine.distributed import World
from fastimae.engine.files import RUN, args_in
from fastimae.engine.leftovers import make_room
from fastimae.engine.optim import OptimSettings
from fastimae.engine.peak import peak_rate
from fastimae.engine.plan import Plan
from fastimae.engine.precision import resolve_precision
from fastimae.engine.prepare import StepSettings, build_step
from fastimae.engine.trainer import Trainer
from fastimae.log import log
from fastimae.settings import Settings

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


def assemble(
    objective: Objective,
    loader: Any,
    world: World,
    *,
    run: Sequence[Settings],
    how: StepSettings,
    workers: int,
    output_dir: Path,
    args: dict[str, Any],
    optimizer: Callable[[float], torch.optim.Optimizer] | None = None,
    draw: Callable[[Any], None] | None = None,
) -> Trainer:
    """The trainer of a run that begins. Raises ValueError, naming the flag, for what cannot be.

    loader: its batches are on the device, see `fastimae.loaders.DevicePrefetch`. run: what `Plan`
    is gathered of. workers: of the loader. args: see `kept`. optimizer: see `build_step`. draw:
    see `Trainer`.
    """
    plan = Plan.gather(*run)
    cores = cores_here(world.device, workers)
    speed = full_speed(objective, world, resolve_precision(how.precision, world.device), cores)
    step = build_step(objective, how, plan, world, loader, optimizer)
    trainer = Trainer(
        step, loader, plan, world, output_dir, args=args, draw=draw, cores=cores, full_speed=speed
    )
    trainer.epoch = plan.start_epoch
    if plan.warmup_epochs >= plan.epochs:
        log.warning(
            "--warmup_epochs %g is not below --epochs %d: the learning rate never reaches %.3g",
            plan.warmup_epochs, plan.epochs, plan.peak_lr(world),
        )  # fmt: skip
    return trainer


def kept(settings: Mapping[str, Any], run: OptimSettings, world: World) -> dict[str, Any]:
    """What a checkpoint keeps beside the state of a run: plain settings, what a step is, and which
    run it is."""
    return {**settings, **run.step_of(world), RUN: uuid.uuid4().hex[:12]}


def resume_or_begin(
    trainer: Trainer,
    take: Callable[[Trainer, dict[str, Any], Path], None],
    keep: Path | None = None,
) -> dict[str, Any]:
    """Go on from the checkpoint that --resume means, and move another run's files out of the way.

    take: what to do with its content, see `go_on`. keep: what has been made for this run, and
    stays. Returns the settings of before, {} of a new run. Raises CheckpointError.
    """
    resume, folder = trainer.plan.resume, trainer.output_dir
    path, content = find_resume(resume, folder), {}
    if path:
        content = load_checkpoint(path)
        take(trainer, content, path)
    elif resume:
        log.info("--resume auto: no checkpoint in %s, starting anew", folder)
    if trainer.world.is_main:
        make_room(folder, trainer.log_dir, path, keep, run=trainer.args[RUN])
    return args_in(content)


def full_speed(objective: Objective, world: World, precision: str, cores: Cores) -> float | None:
    """Images a second at which all devices would be at their peak, which is measured; None where
    the objective does not tell what an image takes."""
    flops = objective.train_flops()
    if flops is None:
        return None
    cores.pin()  # the product has the threads that the steps will have
    peak = peak_rate(world.device, precision)
    log.info(
        "MFU: an image takes %.4g GFLOP, and %s multiplies matrices at %.4g TFLOP/s",
        flops / 1e9, world.device, peak / 1e12,
    )  # fmt: skip
    return world.size * peak / flops
