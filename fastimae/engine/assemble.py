"""Assembly of a trainer from an objective, a loader and settings; the start or resume of a run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastimae.engine.build_step import MakeOptimizer, build_step
from fastimae.engine.checkpoint import find_resume, load_checkpoint
from fastimae.engine.checkpoint_file import RUN, args_in
from fastimae.engine.cores import Cores, cores_here
from fastimae.engine.distributed import World
from fastimae.engine.peak import peak_rate
from fastimae.engine.plan import Plan
from fastimae.engine.precision import resolve_precision
from fastimae.engine.previous_runs import archive_other_runs
from fastimae.engine.resolution import try_sizes
from fastimae.engine.run_file import RunFile
from fastimae.engine.settings import OptimSettings, StepSettings
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
    step_settings: StepSettings,
    workers: int,
    output_dir: Path,
    args: dict[str, Any],
    optimizer: MakeOptimizer | None = None,
    draw: Callable[[], Path | None] | None = None,
    run_file: RunFile | None = None,
) -> Trainer:
    """Build the trainer of a new run. Raises ValueError, naming the flag, for impossible settings.

    loader: yields batches on the device, see `fastimae.loaders.DevicePrefetch`. run: the settings
    that make up the `Plan`. workers: of the loader. args: see `checkpoint_args`. optimizer: see
    `build_step`. draw, run_file: see `Trainer`.
    """
    plan = Plan.gather(*run)
    try_sizes(objective, plan)
    cores = cores_here(world.device, workers)
    speed = full_speed(
        objective, world, resolve_precision(step_settings.precision, world.device), cores
    )
    step = build_step(objective, step_settings, plan, world, loader, optimizer)
    trainer = Trainer(
        step, loader, plan, world, output_dir, args=args, draw=draw, cores=cores, full_speed=speed,
        run_file=run_file,
    )  # fmt: skip
    trainer.epoch = plan.start_epoch
    if plan.warmup_epochs >= plan.epochs:
        log.warning(
            "--warmup_epochs %g is not below --epochs %d: the learning rate never reaches %.3g",
            plan.warmup_epochs, plan.epochs, plan.peak_lr(world),
        )  # fmt: skip
    return trainer


def checkpoint_args(
    settings: Mapping[str, Any], run: OptimSettings, world: World
) -> dict[str, Any]:
    """Return what a checkpoint stores as its "args": settings, the size of a step, and a new id of
    the run."""
    return {**settings, **run.step_of(world), RUN: uuid.uuid4().hex[:12]}


def resume_or_begin(
    trainer: Trainer,
    resume: Callable[[Trainer, dict[str, Any], Path], None],
    keep: Path | None = None,
) -> dict[str, Any]:
    """Resume from the checkpoint that --resume names, and archive the files of other runs.

    resume: puts the checkpoint's content into the trainer, see `resume_trainer`. keep: a file that
    belongs to this run already and is not archived. Returns the checkpoint's settings, {} for a new
    run. Raises CheckpointError.
    """
    folder = trainer.output_dir
    path, content = find_resume(trainer.plan.resume, folder), {}
    if path:
        content = load_checkpoint(path)
        resume(trainer, content, path)
    elif trainer.plan.resume:
        log.info("--resume auto: no checkpoint in %s, starting a new run", folder)
    if trainer.world.is_main:
        archive_other_runs(folder, trainer.log_dir, path, keep, run=trainer.args[RUN])
    return args_in(content)


def full_speed(objective: Objective, world: World, precision: str, cores: Cores) -> float | None:
    """Return the images per second at which all devices would run at their measured peak; None if
    the objective does not know the FLOPs of an image."""
    flops = objective.train_flops()
    if flops is None:
        return None
    cores.pin()  # so that the measurement uses the threads that the steps will use
    peak = peak_rate(world.device, precision)
    log.info(
        "MFU: an image takes %.4g GFLOP, and %s multiplies matrices at %.4g TFLOP/s",
        flops / 1e9, world.device, peak / 1e12,
    )  # fmt: skip
    return world.size * peak / flops
