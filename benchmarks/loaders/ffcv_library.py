"""The ffcv library as its own documentation uses it, loop and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.loaders.contestant import Contestant, Job
from benchmarks.loaders.ours import FFCV


class FFCVLibrary(Contestant):
    """Its loader, its windows. The pixels are those of the contestant `ffcv`."""

    label = "as it is"
    what = "the ffcv library as it is, its own windows, threads"
    prepare = FFCV.prepare

    def __init__(self, job: Job) -> None:
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
        # One epoch as long as many, since a new one starts a new thread.
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
