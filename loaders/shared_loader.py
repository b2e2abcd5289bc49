"""A `.beton` file decoded by two engines at once (`--dali_share`).

DALI takes a share of the samples, on the GPU where there is one, and the decoder of `--ffcv` the
rest: for machines whose CPU alone cannot feed the GPU. Who decodes a sample follows from its key,
so a run does not depend on the number of processes; a batch has that share in the mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fastimae.loaders.base import Shown
from fastimae.loaders.beton import BetonReader
from fastimae.loaders.beton_loader import BetonLoader
from fastimae.loaders.crops import Crops
from fastimae.loaders.dali_loader import DaliLoader
from fastimae.loaders.decode import decode_rows, decode_stand_ins
from fastimae.loaders.encoded import EncodedBeton
from fastimae.loaders.joined import joined
from fastimae.loaders.philox import philox, uniform
from fastimae.loaders.pillow_loader import open_sample
from fastimae.loaders.sampler import Sampler, Step

_STREAM = 3
"""Last counter word of this choice; masks use 0 with the same sample key, crops 1, mixtures 2."""


class SharedLoader(BetonLoader):
    """Shows crops made by the loader that `first` makes and by `DaliLoader`.

    DALI has its share of `num_workers` threads, the other as many as if it were alone.
    """

    def __init__(
        self,
        reader: BetonReader,
        sampler: Sampler,
        crops: Crops,
        *,
        first: Callable[..., BetonLoader],
        dali_share: float,
        device: torch.device | str,
        hw_decoder_load: float,
        **settings: int,
    ) -> None:
        """dali_share: above 0, below 1. device: see `DaliLoader`."""
        super().__init__(reader, sampler, crops, **settings)
        self.device, self.dali_share = torch.device(device), dali_share
        dali_settings = {**settings, "num_workers": math.ceil(self.num_workers * dali_share)}
        self._first = first(reader, sampler, crops, **settings)
        self._dali = DaliLoader(
            EncodedBeton(reader), sampler, crops,
            device=device, hw_decoder_load=hw_decoder_load, **dali_settings,
        )  # fmt: skip

    def close(self) -> None:
        self._running.stop()
        self._first.close()
        self._dali.close()
        super().close()

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        steps, for_first, for_dali = itertools.tee(steps, 3)
        with (
            contextlib.closing(self._first._show(self._parts(for_first, dali=False))) as first,
            contextlib.closing(self._dali._show(self._parts(for_dali, dali=True))) as dali,
        ):
            for step in steps:
                rows = self._rows(step, dali=False), self._rows(step, dali=True)
                pairs = zip(rows, (first, dali), strict=True)
                yield self._joined(step, [(own, next(made)) for own, made in pairs if len(own)])

    def _rows(self, step: Step, dali: bool) -> NDArray[np.int64]:
        """The rows of a step that DALI decodes, or the others."""
        words = philox(step.key, np.array([0, 0, 0, _STREAM], np.uint32))
        return np.flatnonzero((uniform(words[:, 0]) < self.dali_share) == dali)

    def _parts(self, steps: Iterable[Step], dali: bool) -> Iterator[Step]:
        """Of each step what one decoder gets, if anything."""
        for step in steps:
            rows = self._rows(step, dali)
            if len(rows):
                yield dataclasses.replace(
                    step, index=step.index[rows], key=step.key[rows], partner=step.partner[rows]
                )

    def _joined(self, step: Step, parts: list[tuple[NDArray[np.int64], Shown]]) -> Shown:
        """One batch, with stand-ins for bad samples as if it had never been two."""
        index, key = step.index, step.key
        bad = {i: reason for _, part in parts for i, reason in part.bad.items()}
        failures = {row: bad[i] for row, i in enumerate(index.tolist()) if i in bad}
        open_image = functools.partial(open_sample, self.reader)
        decode = functools.partial(decode_rows, open_image, self.crops)
        shown, rows, pixels = decode_stand_ins(decode, self.crops, index, key, failures)
        made = [*((own, part.images) for own, part in parts), (rows, torch.from_numpy(pixels))]
        images = joined((len(index), *self.crops.shape), self.device, made)
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return Shown(images=images, index=shown, bad=bad)
