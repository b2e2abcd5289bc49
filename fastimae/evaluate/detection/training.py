"""Training of a detector: data, model, optimizer and checkpoints put together.

C = channels, S = side of the square that an image is resized into.
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
from fastimae.engine.resume import DETECTOR
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.dense.saved import PREFIX, encoder_settings
from fastimae.evaluate.detection.coco import CocoScenes
from fastimae.evaluate.detection.jitter import LargeScaleJitter
from fastimae.evaluate.detection.mask_rcnn import MaskRCNN
from fastimae.evaluate.detection.objective import Detection
from fastimae.evaluate.detection.opened import make_detector, open_train, open_val
from fastimae.evaluate.detection.targets import Target, collate_targets
from fastimae.evaluate.detection.testing import Tester
from fastimae.evaluate.options.detect import DetectOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.results import Results
from fastimae.evaluate.training.checks import check_apart, check_resume
from fastimae.evaluate.training.run import train_with_labels
from fastimae.evaluate.training.sample_loader import SampleLoader
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import plain_settings

BEST = "AP"
"""The score by which checkpoint-best.pth is chosen: of boxes, which all data have."""


class Outcome(NamedTuple):
    """A detector that has been trained, or loaded, and what is known about it."""

    tester: Tester
    """With the detector, and its scores."""
    numbers: dict[str, Any]
    """For results.json, besides the scores."""
    origin: dict[str, Any]
    """Origin of the weights: see `origin_of`."""
    options: DetectOptions
    """The options that the scores were made with."""


@dataclasses.dataclass(frozen=True)
class MakeView:
    """Makes a training view of an image, in a worker process."""

    scenes: CocoScenes
    transform: LargeScaleJitter

    def __call__(self, epoch: int, index: int) -> tuple[NDArray, Target]:
        """Return float32 [C, S, S] and its objects. Raises SkipImage."""
        return self.transform(*self.scenes.read(index), epoch, index)


def train(options: DetectOptions, world: World, results: Results) -> Outcome | None:
    """Train a detector, and test it after each epoch; None if a signal ended the run early.

    Raises ConfigError, DataError or CheckpointError for what cannot work.
    """
    check_apart(options.checkpoint, results.folder)
    encoder = options.load_encoder(torch.device("cpu"))
    options = options.settled(encoder.patch_size)
    precision = resolve_precision(options.precision, world.device)
    origin = origin_of(options.checkpoint, encoder)
    check_resume(options.resume, results.folder, DETECTOR, origin)
    scenes = open_train(options)
    val = open_val(options, scenes.classes)
    torch.manual_seed(options.seed)
    student = make_detector(
        encoder, len(scenes.classes), options, options.input_size, masks=scenes.has_masks
    )
    loader = make_loader(options, scenes, encoder, world)
    _log_sizes(options, student, scenes, val, world)
    tester = Tester(student, val, options, world)
    trained = train_with_labels(
        options, Detection(student, precision), loader, world,
        measure=tester.test, best=f"test_{BEST}", tested_on=val.view_digest,
        how=_how(options, precision), workers=options.worker_count(),
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
    best = {f"best_{name.removeprefix('test_')}": value for name, value in trained.best.items()}
    numbers = {
        "epochs": trained.last["epoch"] + 1,
        **{name: best[name] for name in ("best_AP", "best_AP_mask", "best_epoch") if name in best},
        "train_images": len(scenes),
        "bad_samples": len(loader.bad),
    }
    return Outcome(tester, numbers, origin, trained.options)


def make_loader(
    options: DetectOptions, scenes: CocoScenes, encoder: MaskedAutoencoder, world: World
) -> SampleLoader:
    """Return a loader of training views. options: settled. encoder: for mean and deviation."""
    transform = LargeScaleJitter(
        options.side, (options.min_scale, options.max_scale),
        mean=encoder.mean, std=encoder.std, seed=options.seed,
        flip=0.5 if options.hflip else 0.0,
    )  # fmt: skip
    return SampleLoader(
        MakeView(scenes, transform), len(scenes),
        shape=(encoder.in_chans, options.side, options.side), batch_size=options.batch_size,
        num_workers=options.worker_count(), pin_mem=options.pin_mem, world=world,
        seed=options.seed, data=scenes.digest, source=scenes.source, accum_iter=options.accum_iter,
        collate=collate_targets,
    )  # fmt: skip


def optimizer_for(student: MaskRCNN, options: DetectOptions) -> MakeOptimizer:
    """Return what makes an AdamW of all parameters, with layer decay of the encoder's."""
    groups = encoder_groups(student, options.weight_decay, options.layer_decay, PREFIX)
    return lambda lr, adamw: adamw(groups, lr=lr)


def _how(options: DetectOptions, precision: str) -> DetectOptions:
    """Return how the trainer computes a step: see `Detection`, which computes in bf16 itself."""
    return dataclasses.replace(options, precision="fp16" if precision == "fp16" else "fp32")


def _log_sizes(
    options: DetectOptions, student: MaskRCNN, scenes: CocoScenes, val: CocoScenes, world: World
) -> None:
    encoder = sum(p.numel() for p in student.encoder.parameters() if p.requires_grad)
    heads = sum(p.numel() for p in student.parameters() if p.requires_grad) - encoder
    log.info(
        "Mask R-CNN of %.3g million parameters on an encoder of %.3g million, %s; %d images to "
        "train on, %d to test; effective batch %d, lr %.3g, %s on %s",
        heads / 1e6, encoder / 1e6,
        f"windows of {options.window} patches" if options.window else "global attention",
        len(scenes), len(val), options.effective_batch(world), options.peak_lr(world),
        resolve_precision(options.precision, world.device), world.device,
    )  # fmt: skip
