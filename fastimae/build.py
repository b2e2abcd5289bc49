"""From settings to the parts of a run: loader, objective, trainer."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import torch

from fastimae.config import TrainConfig, flatten
from fastimae.engine.checkpoint import LAST, find_resume, load_checkpoint
from fastimae.engine.cores import Cores, cores_here
from fastimae.engine.distributed import World
from fastimae.engine.files import CONVERTED_WITH, EFFECTIVE_BATCH, RUN, args_in
from fastimae.engine.leftovers import PICTURE, make_room
from fastimae.engine.optim import build_optimizer
from fastimae.engine.parallel import parallelise
from fastimae.engine.peak import peak_rate
from fastimae.engine.plan import Plan
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import go_on, new_run
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.figures.reconstruct import save_reconstruction
from fastimae.evaluate.trained import conversion
from fastimae.interop.hints import Hints
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.kernels import prefer
from fastimae.loaders import DevicePrefetch, Loader, create_loader
from fastimae.loaders.settings import DataSettings
from fastimae.models import MaskedAutoencoder, create_model
from fastimae.models.settings import ModelSettings
from fastimae.objectives.base import Models, Objective, check_parameters
from fastimae.objectives.imae import IMAESettings
from fastimae.speedups import prepare_objective, wants_graph

log = logging.getLogger("fastimae")


# How to change what is said of --init, and of --teacher.
_HINTS = Hints.of(DataSettings, ModelSettings)
_TEACHER_HINTS = Hints.of(
    DataSettings, ModelSettings, IMAESettings, model="teach_model", num_heads="teach_num_heads"
)


def build_loader(config: TrainConfig, world: World, *, tell: bool = True) -> Loader:
    """The loader that the settings ask for. tell: say what it reads. Raises DataError."""
    config.data.apply()
    place = {"rank": world.rank, "world_size": world.size, "device": world.device}
    return create_loader(config.loader(), tell=tell, **place)


class RunModels:
    """Models as the settings of a run say: see `fastimae.objectives.base.Models`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def fresh(self, **sizes: Any) -> MaskedAutoencoder:
        """The model, with weights that follow from --seed. Raises ValueError."""
        config, model = self.config, self.config.model
        prefer(config.optim.kernels, config.optim.attention)
        torch.manual_seed(config.run.seed)
        return create_model(
            model.model,
            img_size=config.data.image_size,
            in_chans=config.data.in_chans,
            mean=model.mean,
            std=model.std,
            num_heads=model.num_heads,
            decoder_embed_dim=model.decoder_embed_dim,
            decoder_depth=model.decoder_depth,
            decoder_num_heads=model.decoder_num_heads,
            norm_pix_loss=model.norm_pix_loss,
            **sizes,
        )

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """It, with the weights of --init if given. Raises ValueError or CheckpointError."""
        student, model = self.fresh(**sizes), self.config.model
        if model.init:
            load_init(student, model.init, allow_partial=model.allow_partial, hints=_HINTS)
        return student

    def teacher(
        self,
        path: Path | None,
        student: MaskedAutoencoder,
        *,
        name: str | None = None,
        num_heads: int | None = None,
    ) -> MaskedAutoencoder | None:
        """The MAE of a checkpoint; None where there is no path. Raises CheckpointError."""
        if path is None:
            return None
        return load_teacher(
            path, student, name, num_heads=num_heads,
            allow_partial=self.config.model.allow_partial, hints=_TEACHER_HINTS,
        )  # fmt: skip


def build_objective(config: TrainConfig, models: Models | None = None) -> Objective:
    """What --objective names, with its models. Raises ValueError or CheckpointError."""
    group = config.objective
    objective = group.chosen.build(group.own(), models or RunModels(config))
    check_parameters(objective)
    return objective


def build_trainer(config: TrainConfig, world: World, loader: Loader) -> Trainer:
    """Everything, ready to run; resumed where --resume says so, else in a cleared output_dir."""
    optim, run, settings = config.optim, config.run, flatten(config)
    precision = resolve_precision(optim.precision, world.device)
    graph = wants_graph(config, world, precision)
    objective = build_objective(config)
    cores = cores_here(world.device, config.data.num_workers)
    speed = full_speed(objective, world, precision, cores)
    objective.to(world.device)
    prepare_objective(objective, config, world.device, precision, loader)
    with world.watched():
        parallel = parallelise(objective, world, optim.parallel, precision)
    step, lr = optim.step_of(world), optim.peak_lr(world)
    picture = run.output_dir / PICTURE if world.is_main else None
    trainer = Trainer(
        objective=objective,
        loader=DevicePrefetch(loader, world.device),
        optimizer=build_optimizer(
            objective, lr, optim.weight_decay, opt=optim.opt, for_graph=graph
        ),
        schedule=optim.schedule(world),
        plan=Plan.gather(optim, run, precision=precision, cuda_graph=graph),
        world=world,
        output_dir=run.output_dir,
        log_dir=run.log_dir,
        args={**settings, **step, **conversion(settings), RUN: new_run()},
        draw=functools.partial(save_reconstruction, objective, picture),
        parallel=parallel,
        cores=cores,
        full_speed=speed,
        seed=run.seed,
    )
    trainer.epoch = run.start_epoch
    if optim.warmup_epochs >= optim.epochs:
        log.warning(
            "--warmup_epochs %g is not below --epochs %d: the learning rate never reaches %.3g",
            optim.warmup_epochs, optim.epochs, lr,
        )  # fmt: skip
    parameters = sum(p.numel() for p in objective.student.parameters())
    log.info(
        "%s, %.1f M parameters, on %s in %s; effective batch %d, lr %.3g, %d steps an epoch",
        config.model.model, parameters / 1e6, world.device, precision, step[EFFECTIVE_BATCH], lr,
        trainer.updates_per_epoch,
    )  # fmt: skip
    return trainer


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


def resume_or_begin(trainer: Trainer, config: TrainConfig) -> None:
    """Load the checkpoint that --resume means, and move another run's files out of the way.

    Raises CheckpointError.
    """
    path = find_resume(config.run.resume, config.run.output_dir)
    if path:
        content = load_checkpoint(path)
        go_on(trainer, content, path, "--init")
        if CONVERTED_WITH in (before := args_in(content)):
            trainer.args.setdefault(CONVERTED_WITH, before[CONVERTED_WITH])
    elif config.run.resume:
        log.info("--resume auto: no checkpoint in %s, starting anew", config.run.output_dir)
    if trainer.world.is_main:
        make_room(config.run.output_dir, config.run.log_dir, path, run=trainer.args[RUN])


def say_goodbye(finished: bool, output_dir: Path) -> None:
    """Name what the run left behind, or how to go on."""
    if finished:
        left = (output_dir / name for name in (LAST, "log.txt", PICTURE))
        log.info("done: %s", ", ".join(str(path) for path in left if path.exists()))
    else:
        log.info("stopped and saved: add --resume auto to go on from %s", output_dir / LAST)
