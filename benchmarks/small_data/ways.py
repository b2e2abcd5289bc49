"""Ways of loading small data. Each opens the same images, and yields batches without end."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.loaders.other_libraries import ENDLESS
from benchmarks.reference.data import MIN_CROP
from fastimae.loaders import Batch, DevicePrefetch, create_loader
from fastimae.loaders.order.sampler import endless
from fastimae.loaders.resident import ResidentEpoch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What all ways load, and where to: windows of 20 to 100 % of an image, resized and flipped."""

    beton: Path
    folder: Path
    """The same images, as folders of classes."""
    side: int
    """Height and width of the batches' images."""
    batch_size: int
    num_workers: int
    device: torch.device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A loader in use. Its batches are on the device and have no end, or the device makes them."""

    batches: Iterator[Batch] | None = None
    resident: ResidentEpoch | None = None
    per_epoch: int = 0
    """Batches of an epoch of `resident`."""
    kept_bytes: int = 0
    """Decoded images that are kept on the device."""


Open = Callable[[Job], contextlib.AbstractContextManager[Opened]]


@contextlib.contextmanager
def on_device(job: Job) -> Iterator[Opened]:
    """Decode everything once, onto the device."""
    with ours(job, "device") as prefetch:
        pixels = prefetch.loader.images.store.pixels
        yield Opened(resident=prefetch.resident, per_epoch=len(prefetch), kept_bytes=pixels.nbytes)


@contextlib.contextmanager
def native(job: Job) -> Iterator[Opened]:
    """Decode each batch anew, in threads."""
    with ours(job, "none") as prefetch:
        endless(prefetch.loader)
        yield Opened(batches=iter(prefetch))


def ours(job: Job, cache: str) -> DevicePrefetch:
    """Make the loader of fastimae-train with this --cache, and copy its batches ahead."""
    loader = create_loader(
        ffcv=job.beton, cache=cache, input_size=(job.side, job.side), batch_size=job.batch_size,
        num_workers=job.num_workers, mix_group=0, device=job.device,
    )  # fmt: skip
    return DevicePrefetch(loader, job.device)


@contextlib.contextmanager
def data_loader(job: Job) -> Iterator[Opened]:
    """Decode each image in a process of torch's DataLoader, as bytes: the least work possible."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                job.side,
                scale=(MIN_CROP, 1.0),
                interpolation=transforms.InterpolationMode.BICUBIC,
            ),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    images = ImageFolder(str(job.folder), transform)
    loader = DataLoader(
        images,
        batch_size=job.batch_size,
        sampler=RandomSampler(images, num_samples=ENDLESS),
        drop_last=True,
        num_workers=job.num_workers,
        pin_memory=job.device.type == "cuda",
        collate_fn=collate,
    )
    batches = iter(loader)
    yield Opened(
        batches=(
            Batch.from_tensors(images, labels, step=step).to(job.device)
            for step, (images, labels) in zip(itertools.count(), batches)
        )
    )
    del batches  # ends the workers


def collate(samples: list[tuple[Tensor, int]]) -> list[Tensor]:
    """Collate samples to images, uint8 [B, H, W, 3], and labels, int64 [B]."""
    images, labels = default_collate(samples)
    return [images.permute(0, 2, 3, 1).contiguous(), labels]


WAYS: dict[str, Open] = {
    "--cache device": on_device,
    "our engine": native,
    "DataLoader": data_loader,
}
