"""Augmented training batches: timm's transforms, Mixup, CutMix, seeded by sample and step.

B = batch, C = channels, H, W = height and width, K = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from fastimae.evaluate.images import Images
from fastimae.evaluate.training.batches import StepSamples
from fastimae.evaluate.training.sample_loader import SampleLoader, stacked
from fastimae.loaders.order.seeded import seeded

_MIXUP_STREAM = 1 << 40
"""Keeps the seeds of steps apart from those of samples."""


class AugmentedLoader(SampleLoader):
    """Batches of augmented images with labels, int64 [B], or float [B, K] if they are mixed.

    The augmentation of a sample is a function of (seed, epoch, sample), the mixing of a step one of
    (seed, epoch, step, rank).
    """

    def __init__(
        self,
        images: Images,
        transform: Callable,
        mixup: Mixup | None,
        *,
        shape: tuple[int, int, int],
        **settings: Any,
    ) -> None:
        """transform: image -> [C, H, W], of the given shape and dtype. mixup: mixes a batch.

        settings: the other arguments of `SampleLoader`.
        """
        images.check_channels(shape[0])
        super().__init__(
            _Augment(images, transform, shape[0]), len(images),
            shape=shape, data=images.digest, source=images.source, collate=stacked,
            mix=mixup and _MixLabels(mixup, settings["seed"], settings["world"].rank), **settings,
        )  # fmt: skip


class _Augment:
    """Makes a sample, in a worker process."""

    def __init__(self, images: Images, transform: Callable, channels: int) -> None:
        self.images, self.transform, self.channels = images, transform, channels

    def __call__(self, epoch: int, index: int) -> tuple[Tensor, int]:
        """Return the augmented image [C, H, W] and its label."""
        image = self.images.view(index, self.channels)
        return self.transform(image), int(self.images.labels[index])


class _MixLabels:
    """Mixes the images of a step, and their labels alike."""

    def __init__(self, mixup: Mixup, seed: int, rank: int) -> None:
        self.mixup, self.seed, self.rank = mixup, seed, rank

    def __call__(self, step: StepSamples, inputs: Tensor, labels: np.ndarray) -> Tensor:
        """Mix inputs, [B, C, H, W], in place; return the labels' shares, float [B, K]."""
        with seeded(self.seed, step.epoch, step.number, self.rank, _MIXUP_STREAM):
            mixed, targets = self.mixup(inputs, torch.from_numpy(labels))
        if mixed is not inputs:
            inputs.copy_(mixed)
        return targets
