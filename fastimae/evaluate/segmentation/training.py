"""Training of a segmentation model: scenes, model, optimizer and checkpoints put together.

C = channels, H, W = height and width.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from fastimae.engine.build_step import MakeOptimizer
from fastimae.engine.checkpoint_file import CLASSES, WEIGHTS
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.engine.resume import SEGMENTER
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.dense.saved import PREFIX, encoder_settings
from fastimae.evaluate.options.segment import SegmentOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results
from fastimae.evaluate.segmentation.model import Segmenter, build_segmenter
from fastimae.evaluate.segmentation.objective import Segmentation
from fastimae.evaluate.segmentation.opened import open_train, open_val
from fastimae.evaluate.segmentation.scenes import Scenes
from fastimae.evaluate.segmentation.testing import NAMES, Tester
from fastimae.evaluate.segmentation.transforms import SegmentTransform
from fastimae.evaluate.training.checks import check_apart, check_resume
from fastimae.evaluate.training.run import train_with_labels
from fastimae.evaluate.training.sample_loader import SampleLoader, stacked
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import height_and_width, plain_settings


class Outcome(NamedTuple):
    """A model that has been trained, or loaded, and what is known about it."""

    tester: Tester
    """With the model, and its scores."""
    numbers: dict[str, Any]
    """For results.json, besides the scores."""
    origin: dict[str, Any]
    """Origin of the weights: see `origin_of`."""
    options: SegmentOptions
    """The options that the scores were made with."""


@dataclasses.dataclass(frozen=True)
class MakeView:
    """Makes a training view of a scene, in a worker process."""

    scenes: Scenes
    transform: SegmentTransform

    def __call__(self, epoch: int, index: int) -> tuple[NDArray, NDArray]:
        """Return float32 [C, H, W] and its mask, uint8 [H, W]."""
        return self.transform(*self.scenes.read(index), epoch, index)


def train(options: SegmentOptions, world: World, results: Results) -> Outcome | None:
    """Train a head, and the encoder unless it is frozen; test after each epoch.

    None if a signal ended the run early. Raises ConfigError, DataError or CheckpointError for what
    cannot work.
    """
    check_apart(options.checkpoint, results.folder)
    encoder = options.load_encoder(torch.device("cpu"))
    options = options.settled(encoder.patch_size)
    origin = origin_of(options.checkpoint, encoder)
    check_resume(options.resume, results.folder, SEGMENTER, origin)
    scenes = open_train(options)
    val = open_val(options, scenes.classes, f"{scenes.source}")
    student = make_student(options, encoder, scenes)
    loader = make_loader(options, scenes, encoder, world)
    _log_sizes(options, student, scenes, val, world)
    tester = Tester(student, val, options, world)
    trained = train_with_labels(
        options, Segmentation(student), loader, world,
        measure=tester.test, best="test_mIoU", tested_on=val.digest, how=options,
        workers=options.worker_count(), optimizer=optimizer_for(student, options),
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
    numbers = {
        "epochs": trained.last["epoch"] + 1,
        **{f"best_{name}": trained.best[f"test_{name}"] for name in NAMES},
        "best_epoch": trained.best["epoch"],
        "train_images": len(scenes),
        "bad_samples": len(loader.bad),
    }
    return Outcome(tester, numbers, origin, trained.options)


def make_student(options: SegmentOptions, encoder: MaskedAutoencoder, scenes: Scenes) -> Segmenter:
    """Return the model to train, with a fresh head for the classes of the scenes.

    options: settled. encoder: pre-trained. Raises ConfigError for sizes that do not fit it.
    """
    torch.manual_seed(options.seed)
    return build_segmenter(
        encoder, len(scenes.classes),
        img_size=height_and_width(options.input_size), head=options.head, layers=options.layers,
        head_dim=options.head_dim, frozen=options.frozen, drop_path=options.drop_path,
    )  # fmt: skip


def make_loader(
    options: SegmentOptions, scenes: Scenes, encoder: MaskedAutoencoder, world: World
) -> SampleLoader:
    """Return a loader of training views. options: settled. encoder: for mean and deviation."""
    size = height_and_width(options.input_size)
    transform = SegmentTransform(
        size, (options.min_scale, options.max_scale),
        mean=encoder.mean, std=encoder.std, seed=options.seed, short_side=options.short_side,
        flip=0.5 if options.hflip else 0.0, jitter=options.color_distort,
    )  # fmt: skip
    return SampleLoader(
        MakeView(scenes, transform), len(scenes),
        shape=(encoder.in_chans, *size), batch_size=options.batch_size,
        num_workers=options.worker_count(), pin_mem=options.pin_mem, world=world,
        seed=options.seed, data=scenes.digest, source=scenes.source, accum_iter=options.accum_iter,
        collate=stacked,
    )  # fmt: skip


def optimizer_for(student: Segmenter, options: SegmentOptions) -> MakeOptimizer:
    """Return what makes an AdamW of the parameters that are trained, with layer decay."""
    groups = encoder_groups(student, options.weight_decay, options.layer_decay, PREFIX)
    return lambda lr, adamw: adamw(groups, lr=lr)


def _log_sizes(
    options: SegmentOptions, student: Segmenter, scenes: Scenes, val: Scenes, world: World
) -> None:
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    log.info(
        "%s, %s head on blocks %s: %.3g million parameters to train; %d images to train on, %d to "
        "test; lr %.3g, %s on %s",
        "frozen encoder" if options.frozen else "encoder", options.head,
        " ".join(map(str, student.encoder.layers)), trained / 1e6, len(scenes), len(val),
        options.peak_lr(world), resolve_precision(options.precision, world.device), world.device,
    )  # fmt: skip
