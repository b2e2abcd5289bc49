"""Batches as other trainers take them: pairs of normalised float images [B, C, H, W] and labels.

Dimensions: B images in a batch, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from fastimae.loaders.base import Loader
from fastimae.loaders.prefetch import DevicePrefetch
from fastimae.settings import OF_FULL_RANGE


class NormalizedPairs:
    """A loader for code written for torchvision's datasets with `ToTensor` and `Normalize`.

    Use it instead of a DataLoader. An iteration is an epoch, and the next iteration is the next
    epoch, with other crops in another order. `sampler.set_epoch(epoch)`, as torch's
    DistributedSampler has it, chooses one; so does `set_epoch`. With `state_dict`, which Lightning
    saves and loads, a run resumes within an epoch.
    """

    def __init__(
        self,
        loader: Loader | DevicePrefetch,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """loader: gives the batches; on the GPU with `DevicePrefetch`, so that uint8 is copied and
        the GPU normalises. mean, std: of each channel, in 0..1. dtype: of the images.

        Raises ValueError for other numbers or ranges of values."""
        for name, values in (("mean", mean), ("std", std)):
            _check_statistics(name, values, loader.shape[2])
        self.loader, self.dtype = loader, dtype
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self._begun: int | None = None

    @property
    def sampler(self) -> Self:
        """This object: `set_epoch` is all that trainers ask of a sampler."""
        return self

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same on every rank."""
        return len(self.loader)

    @property
    def batch_size(self) -> int:
        """B, the images of this rank in a batch."""
        return self.loader.sampler.batch_size

    @property
    def dataset(self) -> range:
        """As many numbers as there are samples in an epoch of all ranks, for trainers that ask."""
        return range(self.loader.sampler.drawn)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`, or stay where `load_state_dict` went in that epoch."""
        if epoch != self.loader.epoch or self._begun is not None:
            self.loader.set_epoch(epoch)
            self._begun = None

    def state_dict(self) -> dict[str, Any]:
        """Return the position, after the batches given out: see `Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration be the rest of that epoch, or the next one if it was finished."""
        self.loader.load_state_dict(state)
        finished = self.loader.state_dict()["step"] == len(self)
        self._begun = self.loader.epoch if finished else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images, `dtype` [B, C, H, W], and labels, int64 [B], -1 without labels."""
        if self._begun == self.loader.epoch:
            self.set_epoch(self.loader.epoch + 1)
        self._begun = self.loader.epoch
        for batch in self.loader:
            yield self._normalized(batch.images), batch.labels

    def _normalized(self, images_BHWC: Tensor) -> Tensor:
        images = images_BHWC.permute(0, 3, 1, 2).to(torch.float32).contiguous()
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        white = torch.iinfo(images_BHWC.dtype).max
        return images.sub_(self.mean * white).div_(self.std * white).to(self.dtype)

    def close(self) -> None:
        """Stop the loader's workers and release its files. May be called twice."""
        self.loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_statistics(name: str, values: Sequence[float], channels: int) -> None:
    if len(values) != channels or not 0 <= min(values) <= max(values) <= 1:
        raise ValueError(
            f"{name} is one value in 0..1 for each of {channels} channels, not {[*values]}: "
            f"{OF_FULL_RANGE}"
        )
