"""A look at some samples of a user's dataset at the start: mistakes are errors before the run.

It takes place in a process of its own (with num_workers 0, in this one): many datasets open their
file at the first access, and workers must not inherit the open file.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zlib
from collections import Counter
from typing import Any

import numpy as np

from fastimae.loaders.backends.dataset import DatasetDecoder
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, form_of
from fastimae.loaders.images.decode import decode_rows, reason_for
from fastimae.loaders.images.given_images import NotAnImage
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.images.pixels import depth_of
from fastimae.loaders.order.epoch_steps import SAMPLED, evenly_spaced
from fastimae.loaders.sources.survey import Survey
from fastimae.loaders.workers.worker_batches import batches_from_workers


@dataclasses.dataclass(kw_only=True)
class Probe:
    """What some samples, evenly spaced, show about all."""

    checksums: dict[int, bytes] = dataclasses.field(default_factory=dict)
    """Of the pixels of each sample that can be read."""
    labels: dict[int, int] = dataclasses.field(default_factory=dict)
    """The label that came with each of them; -1: none."""
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """(width, height) of each of them."""
    depths: Counter[str] = dataclasses.field(default_factory=Counter)
    """See `Survey`."""
    form: PixelForm = RGB8
    """That of the first."""
    failures: dict[int, str] = dataclasses.field(default_factory=dict)
    """Index of each sample that cannot be read -> why."""
    repeats: bool = True
    """Whether the same seed gives the same pixels."""
    is_random: bool = False
    """Whether other seeds give other pixels."""
    problem: str = ""
    """A mistake in the user's code, for which the run should not start."""

    def read(self, index: int) -> bytes:
        """Return the checksum of a sample. Raises SkipImage if it could not be read."""
        if index not in self.checksums:
            raise SkipImage(self.failures.get(index, "not read"))
        return self.checksums[index]

    def survey(self) -> Survey:
        """Return the sizes and depths."""
        widths, heights = np.array(self.sizes, np.int64).reshape(-1, 2).T
        return Survey(heights, widths, self.depths)


def probe(decoder: DatasetDecoder, name: str, *, num_workers: int) -> Probe:
    """Read some samples, in a worker process if there are any.

    Raises DataError, with the dataset's `name`, if they are no images, if none can be read, or if
    the transform does not fit.
    """
    look, workers = functools.partial(_look, decoder), min(1, num_workers)
    looks = batches_from_workers(look, [None], shape=(1,), dtype=np.uint8, num_workers=workers)
    found = next(looks).rest
    looks.close()
    if found.problem:
        raise DataError(f"{name}: {found.problem}")
    if not found.checksums:
        index, reason = next(iter(found.failures.items()))
        raise DataError(
            f"{name}: none of {len(found.failures)} samples can be read, such as number {index}: "
            f"{reason}"
        )
    return found


def _look(decoder: DatasetDecoder, *_: Any) -> Probe:
    found = Probe()
    for index in evenly_spaced(len(decoder.samples.labels), SAMPLED):
        try:
            _read(decoder, index, found)
        except NotAnImage as error:
            found.problem = f"sample {index}: {error}"
            return found
        except Exception as error:  # whatever the user's code raises
            found.failures[index] = reason_for(error)
    if found.checksums:
        _compare(decoder, next(iter(found.checksums)), found)
    return found


def _read(decoder: DatasetDecoder, index: int, found: Probe) -> None:
    image, label = decoder.samples.item(index, 0)
    depth = depth_of(image)
    found.form = found.form if found.checksums else form_of(image)
    found.checksums[index] = _checksum(image)
    found.labels[index] = label
    found.sizes.append(image.size)
    found.depths.update([depth] if depth else [])


def _compare(decoder: DatasetDecoder, index: int, found: Probe) -> None:
    """Compare readings of one sample with the same seed, and with others; try the transform."""
    samples = decoder.samples
    decoder.crops = crops = dataclasses.replace(decoder.crops, dtype=found.form.dtype)
    found.repeats = _checksum(samples.item(index, 0)[0]) == found.checksums[index]
    others = (_checksum(samples.item(index, key)[0]) for key in (1, 2, 3))
    found.is_random = any(other != found.checksums[index] for other in others)
    if decoder.transform is None:
        return
    crop = crops.empty(1)
    if decode_rows(lambda _: samples.item(index, 0)[0], crops, np.arange(1), np.arange(1), crop):
        return
    try:
        once, twice = (decoder.transformed(crop[0], 0) for _ in itertools.repeat(None, 2))
    except Exception as error:
        found.problem = f"the transform does not fit, on sample {index}: {reason_for(error)}"
        return
    found.repeats &= np.array_equal(once, twice)


def _checksum(image: AnyImage) -> bytes:
    described = repr((image.mode, image.size)).encode()
    return zlib.crc32(image.tobytes(), zlib.crc32(described)).to_bytes(4, "little")
