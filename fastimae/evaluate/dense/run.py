"""A run of any dense task: training, or with --eval a test, and its results."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from fastimae.engine.build_step import MakeOptimizer
from fastimae.engine.checkpoint_file import CLASSES, WEIGHTS
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.dense.saved import PREFIX, encoder_settings
from fastimae.evaluate.dense.task import DenseTask, MakeView, Outcome
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.options.dense import DenseOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.evaluate.training.checks import check_apart, check_resume
from fastimae.evaluate.training.run import Trained, train_with_labels
from fastimae.evaluate.training.sample_loader import SampleLoader
from fastimae.loaders.images.limits import set_max_pixels
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import plain_settings


def run_dense(task: DenseTask, options: DenseOptions) -> None:
    """Train and test, or with --eval only test, and write results.json with the task's numbers."""
    with (
        joined_processes(options) as world,
        open_results(
            options, options.task, inside="eval" if options.eval else "",
            log_dir=options.log_dir, world=world,
        ) as results,
    ):  # fmt: skip
        set_max_pixels(options.max_pixels)
        outcome = (_evaluate if options.eval else _train)(task, options, world, results)
        if outcome is None:
            return
        tester = outcome.tester
        if not tester.scores:  # of a finished run that was resumed
            tester.test(quiet=False)
        skipped = tester.broken_images()
        if world.is_main:
            more = task.report(outcome, results)
            sizes = {"val_images": len(tester.scenes), "bad_images": skipped}
            used = dataclasses.replace(outcome.options, checkpoint=options.source())
            numbers = {**tester.scores, **outcome.numbers, **sizes, **more}
            path = results.save(numbers, used, origin=outcome.origin)
            log.info("%s: %s; %s", options.task, task.in_words(tester.scores), path)


def _evaluate(task: DenseTask, options: DenseOptions, world: World, _: Results) -> Outcome:
    """Test the model that --resume names, or the run's best one."""
    student, classes, options = task.load_trained(options)
    val = task.match(task.open(options, "val"), classes, str(options.source()))
    origin = origin_of(options.source(), student.encoder)
    tester = task.tester(student.to(world.device), val, options, world)
    tester.test(quiet=False)
    return Outcome(tester, {}, origin, options)


def _train(
    task: DenseTask, options: DenseOptions, world: World, results: Results
) -> Outcome | None:
    """Train a model and test it after epochs; None if a signal ended the run early.

    Raises ConfigError, DataError or CheckpointError for what cannot work.
    """
    check_apart(options.checkpoint, results.folder)
    encoder = options.load_encoder(torch.device("cpu"))
    options = options.settled(encoder.patch_size)
    precision = resolve_precision(options.precision, world.device)
    origin = origin_of(options.checkpoint, encoder)
    check_resume(options.resume, results.folder, task.kind, origin)
    scenes = task.open(options, "train")
    val = task.match(task.open(options, "val"), scenes.classes, str(scenes.source))
    torch.manual_seed(options.seed)
    student = task.build(options, encoder, scenes)
    loader = _loader(task, options, scenes, encoder, world)
    task.log_sizes(options, student, scenes, val, world)
    tester = task.tester(student, val, options, world)
    trained = train_with_labels(
        options, task.objective(student, precision), loader, world,
        measure=tester.test, best=f"test_{task.scores[0]}", tested_on=val.view_digest,
        how=task.how(options, precision), workers=options.worker_count(),
        optimizer=optimizer_for(student, options),
        output_dir=results.folder, run_file=results.run_file,
        settings={
            **plain_settings(options),
            **encoder_settings(encoder, student.encoder.img_size),
            WEIGHTS: origin[WEIGHTS],
            CLASSES: scenes.classes,
        },
    )  # fmt: skip
    if trained is None:
        return None
    sizes = {"train_images": len(scenes), "bad_samples": len(loader.bad)}
    return Outcome(tester, {**_epochs(trained, task.scores), **sizes}, origin, trained.options)


def _loader(
    task: DenseTask, options: DenseOptions, scenes: Any, encoder: MaskedAutoencoder, world: World
) -> SampleLoader:
    """Return a loader of training views."""
    return SampleLoader(
        MakeView(scenes, task.transform(options, encoder)), len(scenes),
        shape=(encoder.in_chans, *options.input_size), batch_size=options.batch_size,
        num_workers=options.worker_count(), pin_mem=options.pin_mem, world=world,
        seed=options.seed, data=scenes.digest, source=scenes.source, accum_iter=options.accum_iter,
        collate=task.collate,
    )  # fmt: skip


def optimizer_for(student: nn.Module, options: DenseOptions) -> MakeOptimizer:
    """Return what makes an AdamW of all that is trained, with layer decay of the encoder's."""
    groups = encoder_groups(student, options.weight_decay, options.layer_decay, PREFIX)
    return lambda lr, adamw: adamw(groups, lr=lr)


def _epochs(trained: Trained, scores: tuple[str, ...]) -> dict[str, Any]:
    """Return the number of epochs, and the scores of the best one that the data have."""
    best = {f"best_{name}": trained.best.get(f"test_{name}") for name in scores}
    return {
        "epochs": trained.last["epoch"] + 1,
        **{name: value for name, value in best.items() if value is not None},
        "best_epoch": trained.best["epoch"],
    }
