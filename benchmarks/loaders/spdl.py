"""SPDL: threads instead of processes, and FFmpeg for decoding, cropping and resizing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.loaders.base import EndlessSteps, LoaderUnderTest, LoadJob, Missing, Pixels, need
from benchmarks.loaders.other_decoders import PEERS
from fastimae.loaders.beton.reader import BetonReader

Source = tuple[str, str, int, int]
"""A path, FFmpeg's filters for it, and index and key of the sample."""
FFMPEG = "apt-get install ffmpeg"


class Spdl(LoaderUnderTest):
    """Its pipeline as in its example of preprocessing in threads, for ImageNet.

    Images are decoded by as many threads as there are workers, each with one thread of FFmpeg,
    which is SPDL's default; so is the bicubic filter of FFmpeg's scaler. Windows are ours: to draw
    them costs less than torchvision's way, and the pixels can be compared.
    """

    label = "its own pipeline and decoder"
    what = "SPDL's pipeline, FFmpeg decodes, crops and resizes (bicubic), threads"

    @classmethod
    def prepare(cls) -> None:
        need("spdl.io", "SPDL", f"{PEERS}; {FFMPEG}")
        from spdl.io.utils import get_ffmpeg_versions

        try:
            get_ffmpeg_versions()
        except RuntimeError as error:
            raise Missing(f"SPDL finds no libraries of FFmpeg ({error}): {FFMPEG}") from error

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        from spdl.pipeline import PipelineBuilder

        self.pipeline = (
            PipelineBuilder()
            .add_source(sources(job))
            .pipe(decode, concurrency=job.num_workers)
            .aggregate(job.batch_size)
            .pipe(to_batch)
            .add_sink(job.num_workers)
            .build(num_threads=job.num_workers)
        )

    def batches(self) -> Iterator[tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield images, uint8 [B, H, W, 3], and their indices and keys, [B]."""
        with self.pipeline.auto_stop():
            yield from self.pipeline

    def pixels(self, batches: Iterator[Any]) -> Iterator[Pixels]:
        for images, index, key in batches:
            yield Pixels(images=images.numpy(), index=index, key=key)


def sources(job: LoadJob) -> Iterator[Source]:
    """Yield what is to be decoded, endlessly, a step after another."""
    with BetonReader(job.images.beton) as reader:
        for step in EndlessSteps(job):
            heights, widths = reader.heights[step.index], reader.widths[step.index]
            windows, flips = job.crops.draw(step.key, heights, widths)
            for row, index in enumerate(step.index.tolist()):
                chain = filters(windows[row], flips[row], job.crops.size)
                yield str(job.images.path(index)), chain, index, int(step.key[row])


def filters(window: NDArray[np.int64], flip: bool, size: tuple[int, int]) -> str:
    """Describe a crop, resize and flip for FFmpeg; `exact`: also at odd pixels of a JPEG."""
    top, left, height, width = window.tolist()
    crop = f"crop=w={width}:h={height}:x={left}:y={top}:exact=1"
    scale = f"scale=w={size[1]}:h={size[0]}:flags=bicubic"
    return ",".join([crop, scale, *["hflip"] * bool(flip), "format=pix_fmts=rgb24"])


def decode(source: Source) -> tuple[Any, int, int]:
    """Decode an image; return its frames, index and key."""
    from spdl import io

    path, chain, index, key = source
    return io.decode_packets(io.demux_image(path), filter_desc=chain), index, key


def to_batch(
    items: Sequence[tuple[Any, int, int]],
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Copy the frames of a batch into one tensor, uint8 [B, H, W, 3]."""
    from spdl import io

    frames, index, key = zip(*items, strict=True)
    return io.to_torch(io.convert_frames(list(frames))), np.array(index), np.array(key)
