"""NVIDIA DALI on the CPU, given our windows and the bytes from the .beton."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from benchmarks.loaders.contestant import Contestant, EndlessSteps, Job, Missing, Pixels
from fastimae.loaders.beton import BetonReader


class Dali(Contestant):
    """Decodes the window only, as our engine does; antialiased bicubic resize."""

    what = "on the CPU: image_slice, antialiased cubic resize, our windows, threads"
    interpolation: ClassVar[str] = "INTERP_CUBIC"

    @classmethod
    def prepare(cls) -> None:
        try:
            import nvidia.dali  # noqa: F401
        except (ImportError, OSError) as error:
            raise Missing(f"no DALI ({error}): pip install 'fastimae[dali]'") from error

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        from nvidia.dali import pipeline_def

        self.reader = BetonReader(job.images.beton)
        self.steps = iter(EndlessSteps(job))
        settings = {
            "batch_size": job.batch_size,
            "num_threads": job.num_workers,
            "device_id": None,
            "prefetch_queue_depth": 2,
            "seed": job.seed,
        }
        self.pipeline = pipeline_def(self.graph, **settings)()
        self.pipeline.build()

    def graph(self) -> Any:
        """uint8 images [B, H, W, 3], and of each its sample and key."""
        from nvidia.dali import fn, types

        data, start, shape, flip, index, key = fn.external_source(
            self.next_step,
            num_outputs=6,
            batch=True,
            dtype=[types.UINT8, *[types.INT32] * 3, *[types.INT64] * 2],
        )
        window = fn.decoders.image_slice(
            data,
            start=start,
            shape=shape,
            axes=[0, 1],
            output_type=types.RGB,
            adjust_orientation=False,
        )
        small = fn.resize(
            window,
            size=self.job.crops.size,
            interp_type=getattr(types, self.interpolation),
            antialias=True,
        )
        return fn.flip(small, horizontal=flip), index, key

    def next_step(self) -> tuple[list[np.ndarray], ...]:
        """The inputs of a batch, called by the pipeline."""
        step = next(self.steps)
        heights, widths = self.reader.heights[step.index], self.reader.widths[step.index]
        windows, flips = self.job.crops.draw(step.key, heights, widths)
        windows = windows.astype(np.int32)
        return (
            [np.frombuffer(self.reader.read(i), np.uint8) for i in step.index.tolist()],
            list(windows[:, :2]),
            list(windows[:, 2:]),
            list(flips.astype(np.int32)),
            list(step.index),
            list(step.key),
        )

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield tuple(torch.from_dlpack(part.as_tensor()) for part in self.pipeline.run())

    def pixels(self, batches: Iterator[tuple[Tensor, ...]]) -> Iterator[Pixels]:
        for images, index, key in batches:
            yield Pixels(
                images=images.numpy(),
                index=index.numpy().reshape(-1),
                key=key.numpy().reshape(-1),
            )

    def close(self) -> None:
        self.reader.close()


class DaliLinear(Dali):
    """A cheaper filter, another picture."""

    what = "on the CPU: image_slice, antialiased linear resize, our windows, threads"
    interpolation = "INTERP_LINEAR"
