"""Build the parts of a training run from its settings: loader, objective, trainer."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastimae.config import TrainConfig, flatten, run_settings
from fastimae.engine.assemble import assemble, checkpoint_args
from fastimae.engine.checkpoint import LAST, find_resume, load_checkpoint
from fastimae.engine.checkpoint_file import CONVERTED_WITH, args_in
from fastimae.engine.distributed import World
from fastimae.engine.plan import Plan
from fastimae.engine.previous_runs import PICTURE
from fastimae.engine.resolution import try_sizes
from fastimae.engine.resume import load_models, resume_trainer
from fastimae.engine.run_file import RunFile
from fastimae.engine.trainer import Trainer
from fastimae.interop.hints import Hints
from fastimae.interop.open_checkpoint import open_checkpoint
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.kernels import set_default_impl
from fastimae.loaders import DevicePrefetch, Loader, create_loader
from fastimae.loaders.order.sampler_checks import check_partners
from fastimae.loaders.settings import DataSettings
from fastimae.log import log, quietly
from fastimae.models import MaskedAutoencoder, create_model
from fastimae.models.encoder import channel_statistics
from fastimae.models.settings import ModelSettings
from fastimae.objectives.base import Models, Objective, check_parameters
from fastimae.objectives.choice import OBJECTIVES
from fastimae.objectives.settings import IMAESettings
from fastimae.pictures.display import Display
from fastimae.pictures.reconstruction import draw_fixed_images
from fastimae.settings import ConfigError, config_errors
from fastimae.trained import conversion_settings

# The flags that messages about --init, and about --teacher, name.
_HINTS = Hints.of(DataSettings, ModelSettings)
_TEACHER_HINTS = Hints.of(
    DataSettings, ModelSettings, IMAESettings, model="teach_model", num_heads="teach_num_heads"
)


def build_loader(config: TrainConfig, world: World, *, tell: bool = True) -> Loader:
    """Build the loader of a run. tell: log what it reads. Raises DataError."""
    config.data.apply()
    ranks = {"rank": world.rank, "world_size": world.size, "device": world.device}
    loader = create_loader(config.loader(), tell=tell, **ranks)
    if config.objective.needs_partners():
        check_partners(loader.sampler)
    return loader


class RunModels:
    """The models that a run's settings describe: see `fastimae.objectives.base.Models`."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def fresh(self, **sizes: Any) -> MaskedAutoencoder:
        """Make the model with random weights from --seed. Raises ValueError."""
        config, model = self.config, self.config.model
        set_default_impl(config.optim.kernels, config.optim.attention, config.optim.mlp)
        torch.manual_seed(config.run.seed)
        return create_model(
            model.model,
            img_size=config.data.image_size,
            in_chans=config.data.in_chans,
            **model.taken_by(MaskedAutoencoder.__init__),
            **sizes,
        )

    def student(self, **sizes: Any) -> MaskedAutoencoder:
        """Make the model, with --init's weights if given. Raises ValueError or CheckpointError."""
        student, model = self.fresh(**sizes), self.config.model
        if model.init:
            load_init(student, model.init, allow_partial=model.allow_partial, hints=_HINTS)
        return student

    def teacher(
        self, path: Path | None, student: MaskedAutoencoder, **model: Any
    ) -> MaskedAutoencoder | None:
        """Load a checkpoint's MAE; return None without a path. Raises CheckpointError."""
        if path is None:
            return None
        partial = self.config.model.allow_partial
        return load_teacher(path, student, allow_partial=partial, hints=_TEACHER_HINTS, **model)


class Skeletons(RunModels):
    """The models of a run without memory for their weights: made in no time, to check files."""

    def fresh(self, **sizes: Any) -> MaskedAutoencoder:
        with torch.device("meta"):
            return super().fresh(**sizes)


def check_models(config: TrainConfig) -> None:
    """Raise CheckpointError for a --resume, --init or --teacher that this run cannot use.

    To be called first: it opens no data and starts no process. Raises ConfigError for impossible
    sizes. A user's own objective may have any models: there, files are only read.
    """
    path = find_resume(config.run.resume, config.run.output_dir)
    content = load_checkpoint(path, mmap=True) if path else None
    with quietly(), warnings.catch_warnings(), config_errors():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        if config.objective.objective not in OBJECTIVES:
            for file in (config.model.init, getattr(config.objective, "teacher", None)):
                if file:
                    open_checkpoint(file)
            return
        objective = build_objective(config, Skeletons(config))
        try_sizes(objective, Plan.gather(config.optim, config.run))
        if content is not None:
            load_models(objective, content, flatten(config), path, "--init")


def build_objective(config: TrainConfig, models: Models | None = None) -> Objective:
    """Build the objective of --objective with its models. Raises ValueError, CheckpointError."""
    group = config.objective
    objective = group.chosen.build(group.chosen_settings(), models or RunModels(config))
    check_parameters(objective)
    return objective


def build_trainer(config: TrainConfig, world: World, loader: Loader) -> Trainer:
    """Build the trainer of a run, at its beginning; `resume_or_begin` resumes it."""
    run, settings = config.run, flatten(config)
    objective = build_objective(config)
    picture = run.output_dir / PICTURE if world.is_main else None
    batches = DevicePrefetch(loader, world.device)
    adapted = getattr(objective.student, "adapted", {})  # of --init
    started_from = {"adapted": adapted} if adapted else {}
    trainer = assemble(
        objective,
        batches,
        world,
        run=(config.optim, run),
        step_settings=config.optim,
        workers=config.data.worker_count(),
        output_dir=run.output_dir,
        args=checkpoint_args({**settings, **conversion_settings(settings)}, config.optim, world),
        draw=draw_fixed_images(objective, batches, picture, display_of(config)),
        run_file=RunFile(run.output_dir, run_settings(settings), **started_from),
    )
    trainer.probe = build_probe(config, trainer)
    parameters = sum(p.numel() for p in objective.student.parameters())
    log.info(
        "%s, %.1f M parameters, on %s in %s; effective batch %d, lr %.3g, %d steps an epoch",
        config.model.model, parameters / 1e6, world.device, trainer.step.precision,
        config.optim.effective_batch(world), config.optim.peak_lr(world),
        trainer.updates_per_epoch,
    )  # fmt: skip
    return trainer


def build_probe(config: TrainConfig, trainer: Trainer) -> Callable[[int], dict[str, float]] | None:
    """Return what probes the student and its average after epochs; None without --probe_freq, and
    in all processes but the first, for which they wait.

    Raises ConfigError or DataError, in all processes, for images and students that cannot be used.
    """
    if not config.run.probe_freq:
        return None
    if not isinstance(trainer.objective.student, MaskedAutoencoder):
        raise ConfigError("--probe_freq probes a MaskedAutoencoder, which your student is not")
    from fastimae.evaluate.online.probe import MAX_BATCH, OnlineProbe
    from fastimae.evaluate.online.training import open_probe_images, probe_after_epochs

    probe = OnlineProbe(
        *open_probe_images(config.data, config.run.val),
        channels=config.data.in_chans,
        batch_size=min(config.optim.batch_size, MAX_BATCH),
        workers=config.data.worker_count(),
        seed=config.run.seed,
        precision=config.optim.precision,
    )
    probe.check(config.data.image_size)
    encoders = {"": functools.partial(contextlib.nullcontext, trainer.objective.student)}
    if trainer.step.average:
        encoders["ema_"] = trainer.step.average.in_place
    after = probe_after_epochs(probe, encoders, config.run, config.optim.epochs)
    return after if trainer.world.is_main else None


def display_of(config: TrainConfig) -> Display:
    """Return how a run's pictures are shown. Raises ConfigError."""
    model = config.model
    statistics = channel_statistics(config.data.in_chans, model.mean, model.std)
    return Display(*statistics, config.run.show_channels)


def resume_training(trainer: Trainer, content: dict[str, Any], path: Path) -> None:
    """Resume a pre-training run, see `resume_or_begin`."""
    resume_trainer(trainer, content, path, "--init")
    if CONVERTED_WITH in (before := args_in(content)):
        trainer.args.setdefault(CONVERTED_WITH, before[CONVERTED_WITH])


def log_outcome(output_dir: Path) -> None:
    """Log the files that a finished run has written."""
    left = (output_dir / name for name in (LAST, "log.txt", PICTURE))
    log.info("done: %s", ", ".join(str(path) for path in left if path.exists()))
