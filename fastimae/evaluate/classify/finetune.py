"""Fine-tuning (MAE, appendix A.1): all of the encoder learns, under timm's augmentation."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import VisionTransformer
from torch import Tensor

from fastimae.config import ConfigError
from fastimae.engine.checkpoint import load_checkpoint, load_weights, model_weights
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.evaluate.classify.augment import AugmentedLoader
from fastimae.evaluate.classify.classification import Classification
from fastimae.evaluate.classify.classifier import build_classifier, classes_of, layer_decay_groups
from fastimae.evaluate.classify.finetune_options import RECIPES, FinetuneOptions, check_finetune
from fastimae.evaluate.classify.training import train, training_numbers
from fastimae.evaluate.classify.transforms import build_mixup, training_transform
from fastimae.evaluate.classify.validation import BEST, Validated, validate
from fastimae.evaluate.encoder import load_encoder
from fastimae.evaluate.images import Images, center_batches, check_classes
from fastimae.evaluate.options import joined, plain
from fastimae.evaluate.results import save_results
from fastimae.models import MaskedAutoencoder

__all__ = ["RECIPES", "FinetuneOptions", "run"]

log = logging.getLogger("fastimae")


def run(options: FinetuneOptions) -> None:
    """Write log.txt, checkpoints and results.json with acc1 and acc5; --eval: eval/results.json."""
    check_finetune(options)
    with joined(options) as world:
        encoder = load_encoder(
            options.checkpoint, torch.device("cpu"),
            name=options.model, random_init=options.random_init, seed=options.seed,
        ).requires_grad_(True)  # fmt: skip
        folder = options.folder("finetune")
        numbers = (_evaluate if options.eval else _train)(options, encoder, world, folder)
        if numbers and world.is_main:
            path = save_results(
                folder / "eval" if options.eval else folder, "finetune", numbers, options
            )
            log.info("finetune: acc1 %.2f %%, acc5 %.2f %%; %s",
                     numbers["acc1"], numbers["acc5"], path)  # fmt: skip


def _train(
    options: FinetuneOptions, encoder: MaskedAutoencoder, world: World, folder: Path
) -> dict[str, Any] | None:
    """Numbers of a finished run, None of a stopped one."""
    images, val = options.train_images(), options.val_images()
    classes = _class_count(options, images, val)
    torch.manual_seed(options.seed)
    student = _classifier(options, encoder, classes)
    objective = Classification(student, 0.0 if options.mixes else options.smoothing)
    objective.to(world.device)
    precision = resolve_precision(options.precision, world.device)
    args = {**plain(options), **_settings(encoder, student)}
    loader = Validated(
        build_loader(options, images, encoder, student, world),
        student,
        lambda: validation_batches(options, val, encoder, student, world),
        world,
        precision=precision,
        output_dir=folder,
        args=args,
    )
    lr = options.peak_lr(world)
    optimizer = torch.optim.AdamW(
        layer_decay_groups(student, options.weight_decay, options.layer_decay), lr=lr, fused=True
    )
    log.info("%d classes, %d images to train on, %d to test; lr %.3g, %s on %s",
             classes, len(images), len(val), lr, precision, world.device)  # fmt: skip
    finished = train(
        options, objective, loader, optimizer, world, folder, precision=precision, args=args
    )
    return {**training_numbers(loader), "classes": classes} if finished else None


def _evaluate(
    options: FinetuneOptions, encoder: MaskedAutoencoder, world: World, folder: Path
) -> dict[str, Any]:
    """acc1, acc5 and loss of the classifier that --resume names, else of the best one."""
    path = folder / BEST if options.resume in ("", "auto") else Path(options.resume)
    weights = model_weights(load_checkpoint(path), path)
    if "head.bias" not in weights:
        raise ConfigError(f"--resume {path} is not a classifier: fine-tune one first")
    val, classes = options.val_images(), classes_of(weights)
    if (found := check_classes(val, val)) > classes:
        raise ConfigError(f"--val {val.source} has {found} classes, {path} knows {classes}")
    student = _classifier(options, encoder, classes)
    load_weights(student, weights, path)
    student.to(world.device)
    batches = validation_batches(options, val, encoder, student, world)
    precision = resolve_precision(options.precision, world.device)
    numbers = validate(student, batches, world, precision)
    return {name.removeprefix("test_"): value for name, value in numbers.items()}


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
        channels=encoder.in_chans,
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
    options: FinetuneOptions, encoder: MaskedAutoencoder, classes: int
) -> VisionTransformer:
    size = (options.input_size * 2)[:2] if options.input_size else None
    return build_classifier(
        encoder, classes,
        global_pool=options.pools, img_size=size, drop_path=options.drop_path,
    )  # fmt: skip


def _class_count(options: FinetuneOptions, images: Images, val: Images) -> int:
    found = check_classes(images, val)
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
