"""All samples on the training device (`--cache device`): decoded once, cropped there.

The batches are those of the loader that decodes, bit for bit.

Dimensions: B images in a batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.device.images import DeviceImages
from fastimae.loaders.device.room import room_for
from fastimae.loaders.device.store import Sizes, Source, fill_store
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import Failures
from fastimae.loaders.order.sampler import BatchPlan
from fastimae.loaders.resident import ResidentEpoch
from fastimae.loaders.settings import LoaderSettings
from fastimae.log import log


class DeviceLoader(Loader):
    """A loader that keeps the samples of `source`, a loader that it closes, on a device.

    The batches' images are there; of those that `resident` makes, all fields are. Where every crop
    is the whole image, images are kept in their final size, and decoded anew when that changes.
    """

    def __init__(
        self,
        source: Loader,
        sizes: Sizes,
        crops: Crops,
        device: torch.device,
        *,
        num_workers: int,
        pin_mem: bool,
        quiet: bool = False,
    ) -> None:
        """Decode all samples with `num_workers` threads; 0: the calling one.

        source: also a `Source`. sizes: in which the samples are kept. quiet: show no progress.
        """
        super().__init__(
            source.sampler,
            crops.shape,
            dtype=crops.dtype,
            max_bad_samples=source.max_bad_samples,
            pin_mem=pin_mem,
        )
        self.source, self.device = source, device
        self._fill = functools.partial(
            fill_store, source, device=device, num_workers=num_workers, quiet=quiet
        )
        self.images = self._decoded(sizes, crops)

    @functools.cached_property
    def resident(self) -> ResidentEpoch:
        return ResidentEpoch(self)

    def sample_name(self, index: int) -> str:
        return self.source.sample_name(index)

    def go_to(self, epoch: int, step: int) -> None:
        """Be in `epoch`, after `step` micro steps."""
        self.set_epoch(epoch)
        self._step = step

    def handed_out(self, count: int, bad: Mapping[int, tuple[NDArray[np.int64], Failures]]) -> None:
        """Count `count` more micro steps as yielded. bad: what `DeviceImages.good` returned of
        those with bad samples. Raises `DataError` as iterating does."""
        for number in range(self._step, self._step + count):
            if number in bad:
                self._count_bad(*bad[number])
        self._step += count

    def close(self) -> None:
        super().close()
        self.source.close()

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        samples, crops = self.images.samples, dataclasses.replace(self.images.crops, size=size)
        if crops.random:
            self.images.set_crops(crops)
            return
        del self.images  # before memory is taken for the others
        self.images = self._decoded(Sizes.final(samples, size), crops)

    def _decoded(self, sizes: Sizes, crops: Crops) -> DeviceImages:
        return DeviceImages(*self._fill(sizes, crops), sizes.samples, crops)

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        for step in steps:
            index, bad = self.images.good(step.index)
            place = self.images.place(self._upload(index))
            images = self.images.crop(self._upload(step.key), *place)
            yield DecodedStep(images=images, index=index, bad=bad)

    def _upload(self, array: NDArray[np.int64]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        tensor = tensor.pin_memory() if self.pin else tensor
        return tensor.to(self.device, non_blocking=True)


def on_device(
    loader: Loader, crops: Crops, settings: LoaderSettings, device: torch.device, *, tell: bool
) -> Loader:
    """Return a `DeviceLoader` for `loader` if --cache says so, else `loader` itself.

    tell: log what is kept, and show progress. Raises `DataError` if it has to be kept, and there is
    no room.
    """
    if not isinstance(loader, Source):
        return loader
    workers, sampler = settings.worker_count(), loader.sampler
    sizes = room_for(
        loader, sampler.chosen, crops, device, settings.cache,
        num_workers=workers, alone=sampler.world_size == 1,
    )  # fmt: skip
    if sizes is None:
        return loader
    if tell:
        log.info(
            "--cache %s: %d images are decoded once and kept on %s, in %.0f MB",
            settings.cache, len(sizes.samples), device, np.ceil(sizes.bytes(crops) / 1e6),
        )  # fmt: skip
    return DeviceLoader(
        loader, sizes, crops, device,
        num_workers=workers, pin_mem=settings.pin_mem, quiet=not tell,
    )  # fmt: skip
