"""Loaders that are not ours, each as its own documentation uses it: torchvision and ffcv."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.loaders.base import EndlessSteps, LoaderUnderTest, LoadJob, Pixels
from benchmarks.loaders.fastimae_loaders import FFCV
from fastimae.loaders.beton.reader import BetonReader

ENDLESS = 2**62
"""Samples of an epoch that never ends: one random order after another."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Torchvision(LoaderUnderTest):
    """The plain pipeline, with PIL and uint8 tensors: the least work possible."""

    label = "DataLoader, uint8"
    what = "ImageFolder, PIL, uint8, worker processes"
    exact = True
    whole_batches = True
    api: ClassVar[str] = "torchvision.transforms"

    @classmethod
    def prepare(cls) -> None:
        import torchvision  # noqa: F401

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        from torch.utils.data import DataLoader, RandomSampler
        from torchvision.datasets import ImageFolder

        data = ImageFolder(str(job.images.folder), self.transform(), loader=self.open_image())
        generator = torch.Generator().manual_seed(job.seed)
        self.loader = DataLoader(
            data,
            batch_size=job.batch_size,
            # Endless, so that the workers start once, as with persistent_workers.
            sampler=RandomSampler(data, num_samples=ENDLESS, generator=generator),
            drop_last=True,
            num_workers=job.num_workers,
            multiprocessing_context="fork",
            generator=generator,
        )
        self.known_steps = iter(EndlessSteps(job))

    def open_image(self) -> Callable[[str], Any]:
        """Return the function that ImageFolder reads a file with."""
        from torchvision.datasets.folder import default_loader

        return default_loader

    def transforms(self, name: str = "") -> ModuleType:
        """Return the module of transforms in use, or one inside it."""
        return importlib.import_module(f"{self.api}{name}")

    def transform(self) -> Callable[[Any], Tensor]:
        """Return the transform from an image to a tensor."""
        transforms = self.transforms()
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
        """Return the last transforms."""
        from torchvision import transforms

        return [transforms.PILToTensor()]

    def batches(self) -> Iterator[Any]:
        return iter(self.loader)

    def pixels(self, batches: Iterator[Any]) -> Iterator[Pixels]:
        """Call the functions that the transforms call, for our windows."""
        job, images, functional = self.job, self.job.images, self.transforms(".functional")
        bicubic = functional.InterpolationMode.BICUBIC
        with BetonReader(images.beton) as reader:
            for step in self.known_steps:
                heights, widths = reader.heights[step.index], reader.widths[step.index]
                windows, flips = job.crops.draw(step.key, heights, widths)
                decoded = []
                for row, index in enumerate(step.index.tolist()):
                    image = self.open_image()(str(images.path(index)))
                    window = windows[row].tolist()
                    image = functional.resized_crop(image, *window, job.crops.size, bicubic)
                    flipped = functional.hflip(image) if flips[row] else image
                    decoded.append(self.as_uint8(flipped))
                yield Pixels(images=np.stack(decoded), index=step.index, key=step.key)

    def as_uint8(self, image: Any) -> np.ndarray:
        """Convert the image that `to_tensor` gets to uint8 [H, W, 3]."""
        from torchvision.transforms import PILToTensor

        return PILToTensor()(image).permute(1, 2, 0).numpy()


class TorchvisionFloat(Torchvision):
    """The plain pipeline of most training scripts: normalised floats."""

    label = "DataLoader, ToTensor, Normalize"
    what = "ImageFolder, PIL, normalised float32, worker processes"

    def to_tensor(self) -> Sequence[Callable[[Any], Tensor]]:
        from torchvision import transforms

        return [transforms.ToTensor(), transforms.Normalize(_MEAN, _STD)]


class TorchvisionTensor(Torchvision):
    """torchvision's decoder and its resize of tensors: its fastest path."""

    label = "DataLoader, decode_jpeg, resize of tensors"
    what = "ImageFolder, decode_jpeg, resize of tensors, uint8, worker processes"
    exact = False
    api = "torchvision.transforms.v2"  # the first version resizes as floats

    def open_image(self) -> Callable[[str], Tensor]:
        return _decode

    def to_tensor(self) -> Sequence[Callable[[Any], Tensor]]:
        return []

    def as_uint8(self, image: Tensor) -> np.ndarray:
        return image.permute(1, 2, 0).numpy()


class FFCVLibrary(LoaderUnderTest):
    """ffcv's loader with its own windows. Its pixels are those of the loader `ffcv`."""

    label = "as it is"
    what = "the ffcv library as it is, its own windows, threads"
    prepare = FFCV.prepare

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        from ffcv.fields import RGBImageField
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption
        from ffcv.reader import Reader
        from ffcv.transforms import RandomHorizontalFlip, ToTensor

        fields = Reader(str(job.images.beton)).handlers
        image = next(name for name, field in fields.items() if isinstance(field, RGBImageField))
        pipelines: dict[str, Any] = dict.fromkeys(fields)
        pipelines[image] = [
            RandomResizedCropRGBImageDecoder(job.crops.size, scale=job.crops.scale),
            RandomHorizontalFlip(),
            ToTensor(),
        ]
        # One epoch as long as many, since each new epoch starts a new thread.
        subset = np.tile(job.images.subset, max(1, 200_000 // len(job.images.subset)))
        self.loader = Loader(
            str(job.images.beton),
            batch_size=job.batch_size,
            num_workers=job.num_workers,
            os_cache=True,
            order=OrderOption.RANDOM,
            indices=subset,
            seed=job.seed,
            pipelines=pipelines,
        )

    def batches(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def pixels(self, batches: Iterator[Any]) -> None:
        return None


def _decode(path: str) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.from_numpy(np.fromfile(Path(path), np.uint8))
    return decode_jpeg(data, ImageReadMode.RGB)
