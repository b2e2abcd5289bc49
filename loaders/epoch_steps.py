"""Where in an epoch a loader stands, and where another one goes on from there.

A state says how many samples of the epoch's order have been drawn, and whether that was all the
epoch had: which means the same to any batch size, accumulation and number of ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import DataError
from fastimae.loaders.items import SkipImage
from fastimae.log import log

SAMPLED = 16
"""Images that are looked at to tell a data set from others."""
Read = Callable[[int], bytes | memoryview]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochSteps:
    """How a loader cuts an epoch into micro steps: whole optimizer steps, the rest is left out."""

    samples: int
    """In the data set."""
    data: int
    """`digest_of` the data set."""
    stride: int
    """Samples that all ranks together draw for one micro step."""
    accum_iter: int
    """Micro steps of an optimizer step."""

    def __len__(self) -> int:
        return self.samples // (self.stride * self.accum_iter) * self.accum_iter

    def state(self, epoch: int, step: int) -> dict[str, Any]:
        """Of a loader that has yielded `step` micro steps of `epoch`; plain numbers."""
        return {
            "epoch": epoch,
            "step": step,
            "stride": self.stride,
            "accum_iter": self.accum_iter,
            "finished": step == len(self),
            "samples": self.samples,
            "data": self.data,
        }

    def resume(self, state: dict[str, Any], main: bool = True) -> tuple[int, int]:
        """(epoch, micro steps done) to go on from after `state`, of a loader with any stride.

        At the end of an epoch all are done, also where this loader would have left out fewer
        samples. Within an epoch, with other batches, they are whole optimizer steps, as many as
        leave no sample out, and at least one is still to do.
        main: whether to say what changes by that. Raises `DataError` within an epoch of other data.
        """
        done = state["step"] * state["stride"]
        finished = state.get("finished", self._was_all(state, done))
        change = self._change_of_data(state)
        if change and done and not finished:
            raise DataError(
                f"cannot go on in the middle of epoch {state['epoch']} with other data ({change}): "
                "give the data of before, or a checkpoint of an epoch's end (checkpoint-N.pth)"
            )
        if change and main:
            log.warning("goes on with other data than before: %s", change)
        if finished:
            return state["epoch"], len(self)
        if (state["stride"], state.get("accum_iter")) == (self.stride, self.accum_iter):
            return state["epoch"], state["step"]
        step = self._last_update(done)
        again = min(done, len(self) * self.stride) - step * self.stride
        if main and again:
            log.warning(
                "%d samples of epoch %d are seen again: %d had been seen, and a step is %d now",
                again, state["epoch"], done, self.stride * self.accum_iter,
            )  # fmt: skip
        return state["epoch"], step

    def _last_update(self, done: int) -> int:
        """The micro step of the last optimizer step that starts within the first `done` samples, or
        right after them, and ends within the epoch."""
        update = self.stride * self.accum_iter
        return min(done // update, self.samples // update - 1) * self.accum_iter

    def _was_all(self, state: dict[str, Any], done: int) -> bool:
        """For states that do not say whether their epoch was finished: it was where what was left
        is less than their optimizer step."""
        accum_iter = state.get("accum_iter")
        if self.samples - done < state["stride"] * (accum_iter or 1):
            return True
        return accum_iter is None and done >= len(self) * self.stride

    def _change_of_data(self, state: dict[str, Any]) -> str:
        """How the data differ from the state's, "" where they do not as far as it tells."""
        samples = state.get("samples", self.samples)
        if samples != self.samples:
            return f"{samples} samples then, {self.samples} now"
        same = state.get("data", self.data) == self.data
        as_many = f"as many samples, {samples}, of other images or labels, or in another order"
        return "" if same else as_many


def spread(count: int, most: int) -> list[int]:
    """Up to `most` numbers below `count`, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def digest_of(labels: NDArray[np.int64], read: Read | None = None) -> int:
    """A number that tells data sets apart by their labels, int64 [N], and the bytes of some images.

    Not by names, times or what holds them: the same samples in the same order are the same data.
    read: the bytes of a sample.
    """
    digest = zlib.crc32(np.ascontiguousarray(labels, dtype="<i8"))
    if read is not None:
        for index in spread(len(labels), SAMPLED):
            with contextlib.suppress(SkipImage):  # whoever shows it says so
                digest = zlib.crc32(read(index), digest)
    return digest
