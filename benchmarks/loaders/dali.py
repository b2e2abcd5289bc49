"""Our loader with NVIDIA DALI: on the CPU, with a cheaper filter, and on the GPU."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from benchmarks.loaders.base import EndlessSteps, LoadJob, need, need_cuda
from benchmarks.loaders.fastimae_loaders import FastImaeLoader
from fastimae.loaders import Loader
from fastimae.loaders.beton.reader import BetonReader


class Dali(FastImaeLoader):
    """Decodes the window only, as our engine does; antialiased bicubic resize."""

    label = "`--dali`, on the CPU"
    what = "our loader with DALI on the CPU, antialiased cubic resize, threads"
    interpolation: ClassVar[Literal["cubic", "linear"]] = "cubic"
    device: ClassVar[str] = "cpu"
    hw_decoder_load: ClassVar[float] = 0.65

    @classmethod
    def prepare(cls) -> None:
        need("nvidia.dali", "DALI", "pip install 'fastimae[dali]'")

    def __init__(self, job: LoadJob) -> None:
        reader = BetonReader(job.images.beton)
        super().__init__(job, self.make(reader, EndlessSteps(job, reader.labels), job))

    def make(self, reader: BetonReader, steps: EndlessSteps, job: LoadJob) -> Loader:
        """Make the loader to measure."""
        from fastimae.loaders.backends.dali import DaliLoader
        from fastimae.loaders.backends.dali_source import BetonJpegs

        return DaliLoader(
            BetonJpegs(reader),
            steps,
            job.crops,
            device=self.device,
            num_workers=job.num_workers,
            max_bad_samples=0,
            pin_mem=False,
            hw_decoder_load=self.hw_decoder_load,
            interpolation=self.interpolation,
        )


class DaliLinear(Dali):
    """A cheaper filter, and so other pixels."""

    label = "a cheaper filter"
    what = "our loader with DALI on the CPU, antialiased linear resize, threads"
    interpolation = "linear"


class DaliMixed(Dali):
    """The GPU decodes and resizes; its JPEG engine takes DALI's default share of the images."""

    label = "`--dali`, on the GPU"
    what = "our loader with DALI on the GPU, 65 % of the images by its JPEG engine"
    device = "cuda"

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        need_cuda()


class DaliCuda(DaliMixed):
    """The GPU decodes without its JPEG engine."""

    label = "the same, `--hw_decoder_load 0`"
    what = "our loader with DALI on the GPU, no image by its JPEG engine"
    hw_decoder_load = 0.0


class DaliEngine(DaliMixed):
    """The GPU's JPEG engine decodes whatever it can."""

    label = "the same, `--hw_decoder_load 1`"
    what = "our loader with DALI on the GPU, all images by its JPEG engine"
    hw_decoder_load = 1.0


class NativeAndDali(DaliMixed):
    """Our engine on the CPU and DALI on the GPU each make a part of every batch."""

    label = "`--dali_share 0.3`, on the GPU"
    what = "our engine and, for 30 % of the images, DALI on the GPU"
    dali_share: ClassVar[float] = 0.3

    def make(self, reader: BetonReader, steps: EndlessSteps, job: LoadJob) -> Loader:
        from fastimae.loaders.backends.dali import DaliLoader
        from fastimae.loaders.backends.native import NativeLoader
        from fastimae.loaders.backends.shared import SharedLoader

        return SharedLoader(
            reader,
            steps,
            job.crops,
            first=NativeLoader,
            dali=partial(
                DaliLoader.of_beton, device=self.device, hw_decoder_load=self.hw_decoder_load
            ),
            dali_share=self.dali_share,
            num_workers=job.num_workers,
            max_bad_samples=0,
            pin_mem=True,
        )
