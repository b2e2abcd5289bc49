"""The usual loader: ImageFolder, PIL, float tensors, worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.reference.model import mixture

MIN_CROP = 0.2


def plain_transform(
    input_size: int, mean: Sequence[float], std: Sequence[float]
) -> transforms.Compose:
    """MAE's augmentation (appendix A.1): a crop, resized bicubic by PIL, flipped, normalised."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(
                input_size,
                scale=(MIN_CROP, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


def plain_loader(
    folder: Path,
    *,
    input_size: int,
    batch_size: int,
    num_workers: int,
    mean: Sequence[float],
    std: Sequence[float],
    alpha: float | None = None,
    steps: int,
) -> DataLoader:
    """Batches of a folder of classes, one random order after another, `steps` of them.

    Yields lists of float32 tensors [B, 3, H, W]: the images; with `alpha`, i-MAE's weight of the
    subordinate image, their mixtures, the images, and their partners, as workers mix them.
    """
    data = ImageFolder(str(folder), plain_transform(input_size, mean, std))
    return DataLoader(
        data,
        batch_size=batch_size,
        # Over the end of the data without a pause: a loader that restarts would look slow.
        sampler=RandomSampler(data, num_samples=batch_size * steps),
        drop_last=True,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=partial(collate, alpha=alpha),
    )


def collate(samples: list[tuple[Tensor, int]], alpha: float | None) -> list[Tensor]:
    """A batch of samples, mixed with each other in a random order where `alpha` is given."""
    images, _ = default_collate(samples)
    if alpha is None:
        return [images]
    return list(mixture(images, torch.randperm(len(images)), alpha))
