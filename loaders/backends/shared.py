"""A `.beton` file decoded by two decoders at once (`--dali_share`).

DALI takes a share of the samples, on the GPU where there is one, and the decoder of `--ffcv` takes
the rest: for machines whose CPU alone cannot feed the GPU. A sample's decoder follows from its key,
so a run does not depend on the number of processes; a batch has that share on average.

Dimensions: B images in a batch, n of them from one decoder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.base import DecodedStep, Loader
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.loader import BetonLoader
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import decode_replacements, decode_rows
from fastimae.loaders.order.philox import DrawStream, philox, uniform
from fastimae.loaders.order.sampler import BatchPlan, Sampler
from fastimae.loaders.workers.merge_rows import merge_rows

if TYPE_CHECKING:
    from fastimae.loaders.backends.dali import DaliLoader


class SharedLoader(BetonLoader):
    """Merges the batches of two loaders that decode a part of each step.

    DALI has its share of `num_workers` threads; the other loader has as many as if it were alone.
    """

    def __init__(
        self,
        reader: BetonReader,
        sampler: Sampler,
        crops: Crops,
        *,
        first: Callable[..., Loader],
        dali: Callable[..., DaliLoader],
        dali_share: float,
        **settings: int,
    ) -> None:
        """first, dali: make a loader of the same samples from (reader, sampler, crops, **settings).
        dali_share: DALI's share of the samples, above 0 and below 1."""
        super().__init__(reader, sampler, crops, **settings)
        self.dali_share = dali_share
        dali_settings = {**settings, "num_workers": math.ceil(self.num_workers * dali_share)}
        self._first = first(reader, sampler, crops, **settings)
        self._dali = dali(reader, sampler, crops, **dali_settings)
        self.device = self._dali.device

    def _change_size(self, size: tuple[int, int]) -> None:
        super()._change_size(size)
        self._first.set_image_size(size)
        self._dali.set_image_size(size)

    def close(self) -> None:
        self._iteration.stop()
        self._first.close()
        self._dali.close()
        super().close()

    def _decode_steps(self, steps: Iterable[BatchPlan]) -> Iterator[DecodedStep]:
        # Each loader plans its part of the steps itself, as it reads ahead at its own pace.
        first_part = _StepParts(steps, functools.partial(self._rows, dali=False))
        dali_part = _StepParts(steps, functools.partial(self._rows, dali=True))
        with (
            contextlib.closing(self._first._decode_steps(first_part)) as first,
            contextlib.closing(self._dali._decode_steps(dali_part)) as dali,
        ):
            for step in steps:
                parts = []
                for part, decoded in ((first_part, first), (dali_part, dali)):
                    rows = part.rows(step)
                    if len(rows):
                        parts.append((rows, next(decoded)))
                yield self._merge(step, parts)

    def _rows(self, step: BatchPlan, dali: bool) -> NDArray[np.int64]:
        """Return the rows of a step that DALI decodes, or those that it does not; int64 [n]."""
        words = philox(step.key, np.array([0, 0, 0, DrawStream.DECODER], np.uint32))
        return np.flatnonzero((uniform(words[:, 0]) < self.dali_share) == dali)

    def _merge(
        self, step: BatchPlan, parts: list[tuple[NDArray[np.int64], DecodedStep]]
    ) -> DecodedStep:
        """Merge the parts (rows, decoded) of a step, and replace bad samples with good ones from
        anywhere in the step."""
        index, key = step.index, step.key
        bad = {i: reason for _, part in parts for i, reason in part.bad.items()}
        failures = {row: bad[i] for row, i in enumerate(index.tolist()) if i in bad}
        open_image = functools.partial(open_sample, self.reader)
        decode = functools.partial(decode_rows, open_image, self.crops)
        decoded, replaced, pixels = decode_replacements(decode, self.crops, index, key, failures)
        images = merge_rows(
            (len(index), *self.crops.shape),
            self.device,
            [*((rows, part.images) for rows, part in parts), (replaced, torch.from_numpy(pixels))],
        )
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return DecodedStep(images=images, index=decoded, bad=bad)


@dataclasses.dataclass(frozen=True)
class _StepParts:
    """The part of each step that one decoder handles; steps without any are skipped."""

    steps: Iterable[BatchPlan]
    rows: Callable[[BatchPlan], NDArray[np.int64]]

    def __iter__(self) -> Iterator[BatchPlan]:
        for step in self.steps:
            rows = self.rows(step)
            if len(rows):
                yield dataclasses.replace(
                    step, index=step.index[rows], key=step.key[rows], partner=step.partner[rows]
                )
