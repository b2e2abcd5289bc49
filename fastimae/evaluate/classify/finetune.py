"""Fine-tuning (MAE, appendix A.1): all of the encoder learns, under timm's augmentation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor

from fastimae.engine.assemble import assemble, kept
from fastimae.engine.distributed import World
from fastimae.engine.files import CLASSES, WEIGHTS
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.class_names import (
    class_count,
    match_classes,
    match_training,
    names_in,
)
from fastimae.evaluate.classify.augment import AugmentedLoader
from fastimae.evaluate.classify.classification import Classification
from fastimae.evaluate.classify.classifier import (
    build_classifier,
    classes_of,
    layer_decay_groups,
    load_classifier,
    load_head,
)
from fastimae.evaluate.classify.finetune_options import (
    RECIPES,
    FinetuneOptions,
    check_pooling,
)
from fastimae.evaluate.classify.training import (
    check_apart,
    train,
    training_numbers,
)
from fastimae.evaluate.classify.transforms import build_mixup, training_transform
from fastimae.evaluate.classify.validation import Validated, validate
from fastimae.evaluate.encoder import load_encoder
from fastimae.evaluate.images import Images, center_batches
from fastimae.evaluate.options import joined, plain, results_folder
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import save_results
from fastimae.evaluate.trained import conversion, training_of
from fastimae.interop.finetuned import pools
from fastimae.loaders.crops import Crops
from fastimae.loaders.survey import say_windows, survey_files
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, height_and_width

__all__ = ["RECIPES", "FinetuneOptions", "run"]


class _Found(NamedTuple):
    """For results.json."""

    numbers: dict[str, Any] | None
    origin: dict[str, Any]
    """Where the weights are from."""
    of: FinetuneOptions
    """What the numbers were made with."""


def run(options: FinetuneOptions) -> None:
    """Write log.txt, checkpoints and results.json with acc1 and acc5; --eval: eval/results.json."""
    options.check()
    with (
        joined(options) as world,
        results_folder(
            options, "finetune", inside="eval" if options.eval else "",
            log_dir=options.log_dir, world=world,
        ) as folder,
    ):  # fmt: skip
        work = _evaluate if options.eval else _train
        numbers, origin, of = work(options, world, folder)
        if numbers and world.is_main:
            of = dataclasses.replace(of, checkpoint=options.source())
            path = save_results(folder, "finetune", numbers, of, origin=origin)
            log.info("finetune: acc1 %.2f %%, acc5 %.2f %%; %s",
                     numbers["acc1"], numbers["acc5"], path)  # fmt: skip


def _train(options: FinetuneOptions, world: World, folder: Path) -> _Found:
    """Of a finished run; without numbers of a stopped one. The origin is that of its first
    weights."""
    check_apart(options, folder)
    options.settle_crops(training_of(options.checkpoint))
    encoder = load_encoder(
        options.checkpoint, torch.device("cpu"),
        random_init=options.random_init, seed=options.seed, **options.of_model(),
    ).requires_grad_(True)  # fmt: skip
    origin = origin_of(options.checkpoint, encoder)
    images = options.train_images()
    val, classes = match_training(images, options.val_images(), _class_count(options, images))
    torch.manual_seed(options.seed)
    student = _classifier(options, encoder, classes, global_pool=options.pools)
    if world.is_main:
        _tell_of_windows(options, images, student.patch_embed.img_size)
    objective = Classification(student, 0.0 if options.mixes else options.smoothing)
    precision = resolve_precision(options.precision, world.device)
    asked, settings = plain(options), _settings(encoder, student)
    begun = {WEIGHTS: origin[WEIGHTS], CLASSES: images.classes or []}
    args = kept({**asked, **conversion(asked), **settings, **begun}, options, world)
    loader = Validated(
        build_loader(options, images, encoder, student, world),
        student,
        lambda: validation_batches(options, val, encoder, student, world),
        world,
        precision=precision,
        output_dir=folder,
        args=args,
        tested_on=val.as_tested,
    )
    trainer = assemble(
        objective, loader, world,
        run=(options,), how=options, workers=options.num_workers,
        output_dir=folder, args=args, optimizer=functools.partial(_optimizer, student, options),
    )  # fmt: skip
    log.info(
        "%d classes, %d images to train on, %d to test; lr %.3g, %s on %s",
        classes, len(images), len(val), options.peak_lr(world), precision, world.device,
    )  # fmt: skip
    trained = train(trainer, options)
    numbers = {**training_numbers(loader), "classes": classes} if trained else None
    return _Found(numbers, origin, trained or options)


def _evaluate(options: FinetuneOptions, world: World, _: Path) -> _Found:
    """acc1, acc5 and loss of the classifier that --resume names, else of the best one: all that is
    needed is read from its file."""
    path = options.source()
    options.settle_crops(training_of(path))
    encoder, weights = load_classifier(path, **options.of_model())
    check_pooling(options, path, weights)
    classes = classes_of(weights)
    val = match_classes(names_in(encoder.args), options.val_images(), classes)
    student = _classifier(options, encoder, classes, global_pool=pools(weights))
    load_head(student, weights)
    origin = origin_of(path, student)
    student.to(world.device)
    batches = validation_batches(options, val, encoder, student, world)
    precision = resolve_precision(options.precision, world.device)
    numbers = validate(student, batches, world, precision)
    found = {name.removeprefix("test_"): value for name, value in numbers.items()}
    return _Found({**found, "classes": classes}, origin, options)


def _optimizer(
    student: VisionTransformer, options: FinetuneOptions, lr: float
) -> torch.optim.Optimizer:
    groups = layer_decay_groups(student, options.weight_decay, options.layer_decay)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _tell_of_windows(options: FinetuneOptions, images: Images, size: tuple[int, int]) -> None:
    crops = Crops(
        size=size, scale=(options.min_crop, 1.0), ratio=options.crop_ratio,
        random=options.crop == "random",
    )  # fmt: skip
    say_windows(str(images.source), survey_files(images.open, len(images)), crops)


def build_loader(
    options: FinetuneOptions,
    images: Images,
    encoder: MaskedAutoencoder,
    student: VisionTransformer,
    world: World,
) -> AugmentedLoader:
    """Training batches under the augmentation that the options ask for."""
    size = student.patch_embed.img_size
    return AugmentedLoader(
        images,
        training_transform(options, size, encoder.mean, encoder.std),
        build_mixup(options, student.num_classes),
        shape=(encoder.in_chans, *size),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        pin_mem=options.pin_mem,
        world=world,
        seed=options.seed,
        accum_iter=options.accum_iter,
    )


def validation_batches(
    options: FinetuneOptions,
    val: Images,
    encoder: MaskedAutoencoder,
    student: VisionTransformer,
    world: World,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's share of the evaluation view: float [B, C, H, W] normalised, int64 [B]."""
    indices = np.arange(len(val))
    if options.dist_eval:
        indices = indices[world.rank :: world.size]
    batches = center_batches(
        val, student.patch_embed.img_size, batch_size=options.batch_size,
        workers=options.num_workers, channels=encoder.in_chans, indices=indices,
    )  # fmt: skip
    mean, std = (torch.tensor(v, device=world.device)[:, None, None] for v in
                 (encoder.mean, encoder.std))  # fmt: skip
    for pixels, labels in batches:
        inputs = pixels.to(world.device).permute(0, 3, 1, 2).float() / 255
        yield (inputs - mean) / std, labels.to(world.device)


def _classifier(
    options: FinetuneOptions, encoder: MaskedAutoencoder, classes: int, *, global_pool: bool
) -> VisionTransformer:
    size = options.input_size and height_and_width(options.input_size)
    return build_classifier(
        encoder, classes,
        global_pool=global_pool, img_size=size, drop_path=options.drop_path,
    )  # fmt: skip


def _class_count(options: FinetuneOptions, images: Images) -> int:
    found = class_count(images)
    if options.nb_classes and options.nb_classes < found:
        raise ConfigError(f"--nb_classes {options.nb_classes}, but the labels are of {found}")
    return options.nb_classes or found


def _settings(encoder: MaskedAutoencoder, student: VisionTransformer) -> dict[str, Any]:
    """What a reader of the checkpoint needs beside the weights."""
    return {
        "input_size": list(student.patch_embed.img_size),
        "in_chans": encoder.in_chans,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "num_heads": encoder.blocks[0].attn.num_heads,
        "nb_classes": student.num_classes,
    }
