"""From settings to the parts of a run: loader, objective, trainer."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from fastimae.config import TrainConfig, flatten
from fastimae.engine.assemble import assemble, kept
from fastimae.engine.checkpoint import LAST
from fastimae.engine.distributed import World
from fastimae.engine.files import CONVERTED_WITH, args_in
from fastimae.engine.leftovers import PICTURE
from fastimae.engine.resume import go_on
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.figures.reconstruct import save_reconstruction
from fastimae.evaluate.trained import conversion
from fastimae.interop.hints import Hints
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.kernels import prefer
from fastimae.loaders import DevicePrefetch, Loader, create_loader
from fastimae.loaders.settings import DataSettings
from fastimae.log import log
from fastimae.models import MaskedAutoencoder, create_model
from fastimae.models.settings import ModelSettings
from fastimae.objectives.base import Models, Objective, check_parameters
from fastimae.objectives.imae import IMAESettings

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
            **model.taken_by(MaskedAutoencoder.__init__),
            **sizes,
        )

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """It, with the weights of --init if given. Raises ValueError or CheckpointError."""
        student, model = self.fresh(**sizes), self.config.model
        if model.init:
            load_init(student, model.init, allow_partial=model.allow_partial, hints=_HINTS)
        return student

    def teacher(
        self, path: Path | None, student: MaskedAutoencoder, **model: Any
    ) -> MaskedAutoencoder | None:
        """The MAE of a checkpoint; None where there is no path. Raises CheckpointError."""
        if path is None:
            return None
        partial = self.config.model.allow_partial
        return load_teacher(path, student, allow_partial=partial, hints=_TEACHER_HINTS, **model)


def build_objective(config: TrainConfig, models: Models | None = None) -> Objective:
    """What --objective names, with its models. Raises ValueError or CheckpointError."""
    group = config.objective
    objective = group.chosen.build(group.own(), models or RunModels(config))
    check_parameters(objective)
    return objective


def build_trainer(config: TrainConfig, world: World, loader: Loader) -> Trainer:
    """Everything, ready to run; resumed where --resume says so, else in a cleared output_dir."""
    run, settings = config.run, flatten(config)
    objective = build_objective(config)
    picture = run.output_dir / PICTURE if world.is_main else None
    trainer = assemble(
        objective,
        DevicePrefetch(loader, world.device),
        world,
        run=(config.optim, run),
        how=config.optim,
        workers=config.data.num_workers,
        output_dir=run.output_dir,
        args=kept({**settings, **conversion(settings)}, config.optim, world),
        draw=functools.partial(save_reconstruction, objective, picture),
    )
    parameters = sum(p.numel() for p in objective.student.parameters())
    log.info(
        "%s, %.1f M parameters, on %s in %s; effective batch %d, lr %.3g, %d steps an epoch",
        config.model.model, parameters / 1e6, world.device, trainer.step.precision,
        config.optim.effective_batch(world), config.optim.peak_lr(world),
        trainer.updates_per_epoch,
    )  # fmt: skip
    return trainer


def go_on_training(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    """See `resume_or_begin`."""
    go_on(trainer, content, path, "--init")
    if CONVERTED_WITH in (before := args_in(content)):
        trainer.args.setdefault(CONVERTED_WITH, before[CONVERTED_WITH])


def say_goodbye(output_dir: Path) -> None:
    """Name what a finished run left behind."""
    left = (output_dir / name for name in (LAST, "log.txt", PICTURE))
    log.info("done: %s", ", ".join(str(path) for path in left if path.exists()))
