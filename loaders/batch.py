"""A batch as objectives take it, from a loader or from a user's own tensors.

Dimensions: B images in a batch, H height, W width, C channels.
"""

from __future__ import annotations

import dataclasses

import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.loaders.images.given_images import TO_UINT8, NotAnImage, channels_last
from fastimae.loaders.order.partners import random_cycle
from fastimae.loaders.order.philox import row_keys
from fastimae.settings import Seeded


@dataclasses.dataclass(kw_only=True, repr=False)
class Batch:
    """One micro-batch of one rank.

    Everything random downstream (masks, mixing ratios) is drawn from `key` and `step_key`, so it
    depends on the sample and the step alone, never on the number of ranks or workers.
    """

    images: Tensor
    """uint8 or uint16 [B, H, W, C], cropped and flipped."""
    labels: Tensor
    """int64 [B]; -1 where the data has no labels."""
    index: Tensor
    """int64 [B], positions in the data set of the samples used (replacements, too)."""
    key: Tensor
    """int64 [B], random key of (seed, epoch, sample, which of its copies)."""
    partner: Tensor
    """int64 [B], a permutation: row `partner[i]` is mixed into row i."""
    step_key: Tensor
    """int64 [1], random key of (seed, epoch, optimizer step), the same on every rank."""

    @classmethod
    def from_tensors(
        cls,
        images: Tensor | NDArray,
        labels: Tensor | NDArray | None = None,
        *,
        seed: int = Seeded.seed,
        step: int = 0,
        rank: int = 0,
        partner: Tensor | None = None,
    ) -> Batch:
        """Make a batch of images that your own code has loaded, cropped and flipped.

        images: uint8 or uint16, [B, H, W, C] or [B, C, H, W]; the axis of 1, 3 or 4 values is the
            channels (the last, if both could be), else the shorter one. Not normalised: the model
            does that.
        labels: int64 [B]; None: -1.
        seed, step, rank: what the keys follow from, and with them masks and mixing ratios. Count
            `step` up from batch to batch; give the process's rank if there are several.
        partner: int64 [B], a permutation, for objectives that mix images. None: a random cycle
            through the batch, which follows from the keys.

        Everything is on the device of `images`. Raises ValueError if they do not fit.
        """
        pixels = _check_images(torch.as_tensor(images))
        count = len(pixels)
        key, step_key = row_keys(count, seed=seed, step=step, rank=rank)
        labels = torch.full((count,), -1) if labels is None else labels
        partner = random_cycle(key) if partner is None else partner
        others = {
            "labels": _whole_numbers("labels", labels, count),
            "index": torch.arange(count),
            "key": torch.from_numpy(key),
            "partner": _whole_numbers("partner", partner, count),
            "step_key": torch.from_numpy(step_key),
        }
        return cls(images=pixels, **{name: _beside(pixels, one) for name, one in others.items()})

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on `device`; the host does not wait where the memory is pinned."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
        }
        return Batch(**moved)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"Batch({describe_images(self.images)})"


def describe_images(images: Tensor) -> str:
    """Describe images in a few words: their number, size, type and device."""
    count, *size = images.shape
    of = f"{' x '.join(map(str, size))}, {str(images.dtype).removeprefix('torch.')}"
    return f"{count} images, {of}, on {images.device}"


def _check_images(images: Tensor) -> Tensor:
    """Return uint8 or uint16 images as [B, H, W, C]. Raises ValueError."""
    if images.dtype not in (torch.uint8, torch.uint16):
        found = str(images.dtype).removeprefix("torch.")
        raise ValueError(f"images are {found}, not uint8: {TO_UINT8}")
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C] or [B, C, H, W], not {list(images.shape)}")
    try:
        return channels_last(images).contiguous()
    except NotAnImage as error:
        raise ValueError(f"images: {error}") from None


def _whole_numbers(name: str, numbers: Tensor | NDArray, count: int) -> Tensor:
    """Return `count` whole numbers as int64. Raises ValueError if they are not."""
    numbers = torch.as_tensor(numbers)
    if numbers.shape != (count,) or numbers.is_floating_point():
        given = f"{str(numbers.dtype).removeprefix('torch.')} {list(numbers.shape)}"
        raise ValueError(f"{name} must be {count} whole numbers, one for each image, not {given}")
    return numbers.long()


def _beside(images: Tensor, tensor: Tensor) -> Tensor:
    """Copy a tensor to the device of `images`; the host does not wait for the device."""
    if images.is_cuda and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(images.device, non_blocking=True)
