"""NVIDIA DALI through our loader: on the CPU, with the cheaper filter, and on the GPU."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchmarks.loaders.contestant import EndlessSteps, Job, Missing
from benchmarks.loaders.ours import Ours
from fastimae.loaders.beton import BetonReader


class Dali(Ours):
    """Decodes the window only, as our engine does; antialiased bicubic resize."""

    what = "our loader with DALI on the CPU, antialiased cubic resize, threads"
    interpolation: ClassVar[Literal["cubic", "linear"]] = "cubic"
    device: ClassVar[str] = "cpu"
    hw_decoder_load: ClassVar[float] = 0.65

    @classmethod
    def prepare(cls) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except (ImportError, OSError) as error:
            raise Missing(f"no DALI ({error}): pip install 'fastimae[dali]'") from error

    def __init__(self, job: Job) -> None:
        from fastimae.loaders.dali_loader import DaliLoader
        from fastimae.loaders.encoded import EncodedBeton

        encoded = EncodedBeton(BetonReader(job.images.beton))
        loader = DaliLoader(
            encoded,
            EndlessSteps(job, encoded.labels),
            job.crops,
            device=self.device,
            num_workers=job.num_workers,
            max_bad_samples=0,
            pin_mem=False,
            hw_decoder_load=self.hw_decoder_load,
            interpolation=self.interpolation,
        )
        super().__init__(job, loader)


class DaliLinear(Dali):
    """A cheaper filter, another picture."""

    what = "our loader with DALI on the CPU, antialiased linear resize, threads"
    interpolation = "linear"


class DaliMixed(Dali):
    """The GPU decodes and resizes; its JPEG engine takes DALI's default share."""

    what = "our loader with DALI on the GPU, 65 % of the images by its JPEG engine"
    device = "cuda"

    @classmethod
    def prepare(cls) -> None:
        super().prepare()
        import torch

        if not torch.cuda.is_available():
            raise Missing("needs a CUDA device")


class DaliCuda(DaliMixed):
    """The GPU decodes without its JPEG engine."""

    what = "our loader with DALI on the GPU, no image by its JPEG engine"
    hw_decoder_load = 0.0


class DaliEngine(DaliMixed):
    """The GPU's JPEG engine decodes whatever it can."""

    what = "our loader with DALI on the GPU, all images by its JPEG engine"
    hw_decoder_load = 1.0
