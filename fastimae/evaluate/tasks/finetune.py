"""fastimae-eval finetune: train the encoder and a classifier on it, with timm's augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.finetuning.classifier import classes_of, load_classifier, load_head
from fastimae.evaluate.finetuning.training import (
    Outcome,
    classifier_of,
    fine_tune,
    validation_batches,
)
from fastimae.evaluate.labels.accuracy import in_words
from fastimae.evaluate.labels.class_names import match_classes, names_in
from fastimae.evaluate.labels.processes import joined_processes
from fastimae.evaluate.labels.validation import validate
from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results, open_results
from fastimae.interop.finetuned import classifies_mean
from fastimae.log import log
from fastimae.settings import ConfigError
from fastimae.trained import training_settings


def run(options: FinetuneOptions) -> None:
    """Write log.txt, checkpoints and results.json with acc1 and acc5; --eval: eval/results.json."""
    with (
        joined_processes(options) as world,
        open_results(
            options, "finetune", inside="eval" if options.eval else "",
            log_dir=options.log_dir, world=world,
        ) as results,
    ):  # fmt: skip
        work = _evaluate if options.eval else fine_tune
        numbers, origin, used = work(options, world, results)
        if numbers and world.is_main:
            used = dataclasses.replace(used, checkpoint=options.source())
            path = results.save(numbers, used, origin=origin)
            log.info("finetune: %s; %s", in_words(numbers), path)


def _evaluate(options: FinetuneOptions, world: World, _: Results) -> Outcome:
    """Test the classifier that --resume names, or the run's best one; its file is enough."""
    path = options.source()
    options.settle_crops(training_settings(path))
    encoder, weights = load_classifier(path, **options.of_model())
    _check_pooling(options, path, weights)
    classes = classes_of(weights)
    val = match_classes(names_in(encoder.args), options.val_images(), classes)
    student = classifier_of(options, encoder, classes, global_pool=classifies_mean(weights))
    load_head(student, weights)
    origin = origin_of(path, student)
    student.to(world.device)
    batches = validation_batches(options, val, encoder, student, world, quiet=not world.is_main)
    precision = resolve_precision(options.precision, world.device)
    numbers = validate(student, batches, world, precision)
    numbers = {name.removeprefix("test_"): value for name, value in numbers.items()}
    return Outcome({**numbers, "classes": classes}, origin, options)


def _check_pooling(options: FinetuneOptions, path: Path, weights: Mapping[str, object]) -> None:
    """Raise ConfigError if flags contradict the classifier's weights."""
    if classifies_mean(weights) and not options.pools:
        flag = "--cls_token" if options.cls_token else "--no_global_pool"
        raise ConfigError(f"{path} classifies the mean of the patches: leave out {flag}")
