"""The plain pipelines: torchvision's transforms in the worker processes of a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.loaders.contestant import Contestant, EndlessSteps, Job, Pixels
from fastimae.loaders.beton import BetonReader

ENDLESS = 2**62
"""Samples of an epoch: one random order after another."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Torchvision(Contestant):
    """PIL images; uint8 tensors, the least that can be done."""

    label = "DataLoader, uint8"
    what = "ImageFolder, PIL, uint8, worker processes"
    exact = True
    whole_batches = True

    @classmethod
    def prepare(cls) -> None:
        import torchvision  # noqa: F401

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        from torch.utils.data import DataLoader, RandomSampler
        from torchvision.datasets import ImageFolder

        data = ImageFolder(str(job.images.folder), self.transform(), loader=self.open_image())
        generator = torch.Generator().manual_seed(job.seed)
        self.loader = DataLoader(
            data,
            batch_size=job.batch_size,
            # Without an end: the workers start once, as with persistent_workers.
            sampler=RandomSampler(data, num_samples=ENDLESS, generator=generator),
            drop_last=True,
            num_workers=job.num_workers,
            multiprocessing_context="fork",
            generator=generator,
        )
        self.known_steps = iter(EndlessSteps(job))

    def open_image(self) -> Callable[[str], Any]:
        """What ImageFolder reads a file with."""
        from torchvision.datasets.folder import default_loader

        return default_loader

    def transform(self) -> Callable[[Any], Tensor]:
        """From an image to a tensor."""
        from torchvision import transforms

        return transforms.Compose(
            [
                transforms.RandomResizedCrop(
                    self.job.crops.size,
                    scale=self.job.crops.scale,
                    interpolation=transforms.InterpolationMode.BICUBIC,
                ),
                transforms.RandomHorizontalFlip(),
                *self.to_tensor(),
            ]
        )

    def to_tensor(self) -> Sequence[Callable[[Any], Tensor]]:
        """The last transforms."""
        from torchvision import transforms

        return [transforms.PILToTensor()]

    def batches(self) -> Iterator[Any]:
        return iter(self.loader)

    def pixels(self, batches: Iterator[Any]) -> Iterator[Pixels]:
        """The same functions that the transforms call, for windows of ours."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.functional import hflip, resized_crop

        job, images = self.job, self.job.images
        with BetonReader(images.beton) as reader:
            for step in self.known_steps:
                heights, widths = reader.heights[step.index], reader.widths[step.index]
                windows, flips = job.crops.draw(step.key, heights, widths)
                shown = []
                for row, index in enumerate(step.index.tolist()):
                    image = self.open_image()(str(images.path(index)))
                    image = resized_crop(
                        image, *windows[row].tolist(), job.crops.size, InterpolationMode.BICUBIC
                    )
                    shown.append(self.as_uint8(hflip(image) if flips[row] else image))
                yield Pixels(images=np.stack(shown), index=step.index, key=step.key)

    def as_uint8(self, image: Any) -> np.ndarray:
        """uint8 [H, W, 3] of what `to_tensor` gets."""
        from torchvision.transforms import PILToTensor

        return PILToTensor()(image).permute(1, 2, 0).numpy()


class TorchvisionFloat(Torchvision):
    """What most training scripts do."""

    label = "DataLoader, ToTensor, Normalize"
    what = "ImageFolder, PIL, normalised float32, worker processes"

    def to_tensor(self) -> Sequence[Callable[[Any], Tensor]]:
        from torchvision import transforms

        return [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]


class TorchvisionTensor(Torchvision):
    """torchvision's own decoder and its resize of tensors: the fastest it can do."""

    label = "DataLoader, decode_jpeg, resize of tensors"
    what = "ImageFolder, decode_jpeg, resize of tensors, uint8, worker processes"
    exact = False

    def open_image(self) -> Callable[[str], Tensor]:
        return _decode

    def to_tensor(self) -> Sequence[Callable[[Any], Tensor]]:
        return []

    def as_uint8(self, image: Tensor) -> np.ndarray:
        return image.permute(1, 2, 0).numpy()


def _decode(path: str) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.from_numpy(np.fromfile(Path(path), np.uint8))
    return decode_jpeg(data, ImageReadMode.RGB)
