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
    """Make MAE's augmentation (appendix A.1): crop, bicubic resize by PIL, flip, normalise."""
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
    """Make a loader of `steps` batches of a folder of classes, one random order after another.

    It yields lists of float32 tensors [B, 3, H, W]: the images. With `alpha`, i-MAE's weight of the
    subordinate image, workers mix them, and the lists are mixtures, images and partners.
    """
    data = ImageFolder(str(folder), plain_transform(input_size, mean, std))
    return DataLoader(
        data,
        batch_size=batch_size,
        # Continues past the end of the data: a loader that restarts would look slow.
        sampler=RandomSampler(data, num_samples=batch_size * steps),
        drop_last=True,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        collate_fn=partial(collate, alpha=alpha),
    )


def collate(samples: list[tuple[Tensor, int]], alpha: float | None) -> list[Tensor]:
    """Collate samples to a batch; with `alpha`, mix them with each other in a random order."""
    images, _ = default_collate(samples)
    if alpha is None:
        return [images]
    return list(mixture(images, torch.randperm(len(images)), alpha))
