"""Our loaders, as `create_loader` makes them. They report which windows they decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from benchmarks.loaders.base import (
    EndlessSteps,
    LoaderUnderTest,
    LoadJob,
    Missing,
    Pixels,
    need,
    need_cuda,
)
from fastimae.loaders import Batch, Loader, create_loader


class FastImaeLoader(LoaderUnderTest):
    """Any of our loaders; its sampler must be `EndlessSteps`."""

    def __init__(self, job: LoadJob, loader: Loader) -> None:
        super().__init__(job)
        self.loader = loader

    def batches(self) -> Iterator[Batch]:
        return iter(self.loader)

    def pixels(self, batches: Iterator[Batch]) -> Iterator[Pixels]:
        for batch in batches:
            yield Pixels(
                images=batch.images.cpu().numpy(),
                index=batch.index.cpu().numpy(),
                key=batch.key.cpu().numpy(),
            )

    def close(self) -> None:
        self.loader.close()


def settings(job: LoadJob) -> dict[str, Any]:
    """Translate a job to arguments of `create_loader`."""
    return {
        "input_size": job.crops.size,
        "min_crop": job.crops.scale[0],
        "max_crop": job.crops.scale[1],
        "batch_size": job.batch_size,
        "mix_group": 0,
        "num_workers": job.num_workers,
        "max_bad_samples": 0,
    }


class FromBeton(FastImaeLoader):
    """`create_loader(ffcv=..., decoder=...)`."""

    decoder: ClassVar[str]
    pin_mem: ClassVar[bool] = False

    def __init__(self, job: LoadJob) -> None:
        loader = create_loader(
            ffcv=job.images.beton,
            decoder=self.decoder,
            pin_mem=self.pin_mem,
            **settings(job),
        )
        loader.sampler = EndlessSteps(job, loader.sampler.labels)
        super().__init__(job, loader)


class Native(FromBeton):
    """Our engine."""

    label = "the default"
    what = "our engine, threads"
    exact = True
    decoder = "native"

    @classmethod
    def prepare(cls) -> None:
        from fastimae.loaders import native_library

        if native_library.load() is None:
            raise Missing(native_library.why_missing())

    def stage_times(self) -> dict[str, float] | None:
        return self.loader.stage_times()


class NativeOnDevice(Native):
    """Our engine, with images copied to the GPU's memory."""

    label = "up to the GPU's memory"
    what = "our engine, images copied to the GPU ahead of use"
    pin_mem = True

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        need_cuda()

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        from fastimae.loaders.prefetch import DevicePrefetch

        self.prefetch = DevicePrefetch(self.loader, "cuda")

    def batches(self) -> Iterator[Batch]:
        return iter(self.prefetch)

    def close(self) -> None:
        self.prefetch.close()


class Pillow(FromBeton):
    """Pillow in threads."""

    label = "`--decoder pillow`"
    what = "our loader with Pillow, threads"
    exact = True
    decoder = "pillow"


class FFCV(FromBeton):
    """The ffcv library's decoder, with our windows."""

    label = "`--decoder ffcv`"
    what = "our loader with the ffcv library's pipeline (its resize is INTER_AREA), threads"
    decoder = "ffcv"

    @classmethod
    def prepare(cls) -> None:
        from fastimae.loaders.backends.ffcv import FFCVLoader  # noqa: F401

        packages = "g++ pkg-config python3-dev libturbojpeg0-dev libopencv-dev libgl1"
        how = f"pip install 'fastimae[ffcv]' after apt-get install {packages}"
        need("ffcv", "ffcv library", how)


class JpegFiles(FastImaeLoader):
    """`create_loader(data_path=...)`: the same JPEGs as files."""

    label = "`--data_path`"
    what = "our loader of folders with Pillow, worker processes"
    exact = True
    whole_batches = True

    def __init__(self, job: LoadJob) -> None:
        files = np.arange(
            len(job.images.subset)
        )  # numbered from 0, unlike the samples of the .beton
        steps = EndlessSteps(
            dataclasses.replace(job, images=dataclasses.replace(job.images, subset=files))
        )
        loader = create_loader(
            data_path=job.images.folder,
            pin_mem=False,
            **settings(job),
        )
        steps.labels = loader.sampler.labels
        loader.sampler = steps
        super().__init__(job, loader)

    def pixels(self, batches: Iterator[Batch]) -> Iterator[Pixels]:
        for decoded in super().pixels(batches):
            yield dataclasses.replace(decoded, index=self.job.images.subset[decoded.index])
