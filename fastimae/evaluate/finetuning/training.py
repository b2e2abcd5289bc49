"""Fine-tuning: trains an encoder and a classifier on it, with timm's augmentation.

As in MAE, appendix A.1. B = batch, H, W, C = height, width, channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor

from fastimae.engine.checkpoint_file import CLASSES, LABELLED, WEIGHTS
from fastimae.engine.distributed import World
from fastimae.engine.optim import MakeAdamW
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import CLASSIFIER
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.finetuning.augmented_loader import AugmentedLoader
from fastimae.evaluate.finetuning.classifier import build_classifier
from fastimae.evaluate.finetuning.transforms import build_mixup, training_transform
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.class_names import class_count, match_training
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.labels.few_labels import labelled_part, repeated
from fastimae.evaluate.labels.training import train_classifier
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results
from fastimae.evaluate.training.checks import check_apart, check_resume
from fastimae.kernels.checks import FULL_RANGE
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.sources.survey import survey_files, warn_about_windows
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.progress import tracked
from fastimae.settings import ConfigError, height_and_width, plain_settings
from fastimae.trained import conversion_settings, training_settings


class Outcome(NamedTuple):
    """The content of results.json."""

    numbers: dict[str, Any] | None
    """None if a signal ended the run early."""
    origin: dict[str, Any]
    """Origin of the weights: see `origin_of`."""
    options: TuningOptions
    """The options that the numbers were made with."""


def fine_tune(options: TuningOptions, world: World, results: Results) -> Outcome:
    """Fine-tune and validate; the origin is that of the pre-trained weights.

    Raises ConfigError, DataError or CheckpointError for what cannot work.
    """
    check_apart(options.checkpoint, results.folder)
    trained_with = training_settings(options.checkpoint)
    options.check_crops(trained_with)
    options.settle_crops(trained_with)
    encoder = options.load_encoder(torch.device("cpu")).requires_grad_(True)
    origin = origin_of(options.checkpoint, encoder)
    check_resume(options.resume, results.folder, CLASSIFIER, origin)
    images = options.train_images()
    val, classes = match_training(images, options.val_images(), _class_count(options, images))
    torch.manual_seed(options.seed)
    student = classifier_of(options, encoder, classes, global_pool=options.pools)
    if world.is_main:
        _warn_about_crops(options, images, student.patch_embed.img_size)
    log.info(
        "%d classes, %d images to train on, %d to test; lr %.3g, %s on %s",
        classes, len(images), len(val), options.peak_lr(world),
        resolve_precision(options.precision, world.device), world.device,
    )  # fmt: skip
    asked = plain_settings(options)
    trained = train_classifier(
        options,
        Classification(student, 0.0 if options.mixes else options.smoothing),
        build_loader(options, images, encoder, student, world),
        world,
        validation=lambda: validation_batches(options, val, encoder, student, world),
        tested_on=val.view_digest,
        how=options,
        workers=options.worker_count(),
        optimizer=functools.partial(make_optimizer, student, options),
        output_dir=results.folder,
        run_file=results.run_file,
        settings={
            **asked,
            **conversion_settings(asked),
            **_settings(encoder, student),
            WEIGHTS: origin[WEIGHTS],
            CLASSES: images.classes or [],
            LABELLED: images.chosen,
        },
    )
    if trained is None:
        return Outcome(None, origin, options)
    sizes = {"classes": classes, "train_images": len(images), **labelled_part(images.chosen)}
    return Outcome({**trained.numbers, **sizes}, origin, trained.options)


def make_optimizer(
    student: VisionTransformer,
    options: TuningOptions,
    lr: float,
    adamw: MakeAdamW,
) -> torch.optim.Optimizer:
    """Return an AdamW with the layer decay and weight decay of the options; adamw makes it."""
    groups = encoder_groups(student, options.weight_decay, options.layer_decay)
    return adamw(groups, lr=lr)


def _warn_about_crops(options: TuningOptions, images: Images, size: tuple[int, int]) -> None:
    """Warn if most random crops do not fit into the images."""
    crops = Crops(
        size=size, scale=(options.min_crop, 1.0), ratio=options.crop_ratio,
        random=options.crop == "random",
    )  # fmt: skip
    warn_about_windows(str(images.source), survey_files(images.open, len(images)), crops)


def build_loader(
    options: TuningOptions,
    images: Images,
    encoder: MaskedAutoencoder,
    student: VisionTransformer,
    world: World,
) -> AugmentedLoader:
    """Return a loader of training batches with the augmentation that the options ask for.

    Raises DataError if --epoch_samples are fewer than the images.
    """
    if options.epoch_samples:
        images = repeated(images, options.epoch_samples)
    size = student.patch_embed.img_size
    return AugmentedLoader(
        images,
        training_transform(options, size, encoder.mean, encoder.std, images.form),
        build_mixup(options, student.num_classes),
        shape=(encoder.in_chans, *size),
        batch_size=options.batch_size,
        num_workers=options.worker_count(),
        pin_mem=options.pin_mem,
        world=world,
        seed=options.seed,
        accum_iter=options.accum_iter,
    )


def validation_batches(
    options: TuningOptions,
    val: Images,
    encoder: MaskedAutoencoder,
    student: VisionTransformer,
    world: World,
    *,
    quiet: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's share of the test images: float [B, C, H, W] normalised, int64 [B].

    quiet: show no progress.
    """
    indices = np.arange(len(val))
    if options.dist_eval:
        indices = indices[world.rank :: world.size]
    batches = CenterBatches(
        val, student.patch_embed.img_size, batch_size=options.batch_size,
        workers=options.worker_count(), channels=encoder.in_chans, indices=indices,
    )  # fmt: skip
    mean, std = (torch.tensor(v, device=world.device)[:, None, None] for v in
                 (encoder.mean, encoder.std))  # fmt: skip
    for pixels, labels in tracked(batches, "test", "batch", quiet=quiet):
        inputs = pixels.to(world.device).permute(0, 3, 1, 2).float() / FULL_RANGE[pixels.dtype]
        yield (inputs - mean) / std, labels.to(world.device)


def classifier_of(
    options: TuningOptions, encoder: MaskedAutoencoder, classes: int, *, global_pool: bool
) -> VisionTransformer:
    """Return the encoder as a classifier; global_pool: of the mean of the patches."""
    size = options.input_size and height_and_width(options.input_size)
    return build_classifier(
        encoder, classes,
        global_pool=global_pool, img_size=size, drop_path=options.drop_path,
    )  # fmt: skip


def _class_count(options: TuningOptions, images: Images) -> int:
    count = class_count(images)
    if options.nb_classes and options.nb_classes < count:
        raise ConfigError(
            f"--nb_classes {options.nb_classes} is too few: the labels have {count} classes"
        )
    return options.nb_classes or count


def _settings(encoder: MaskedAutoencoder, student: VisionTransformer) -> dict[str, Any]:
    """Return what a checkpoint must hold besides the weights to be loaded."""
    return {
        "input_size": list(student.patch_embed.img_size),
        "in_chans": encoder.in_chans,
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "num_heads": encoder.blocks[0].attn.num_heads,
        "nb_classes": student.num_classes,
    }
