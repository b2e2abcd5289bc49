"""The position of a loader within an epoch, and where another loader resumes from it.

A state records how many samples of the epoch's order have been drawn, and whether that was the end
of the epoch. It has the same meaning for any batch size, accumulation and number of ranks.
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
from fastimae.loaders.image_location import SkipImage
from fastimae.log import log

SAMPLED = 16
"""Images whose bytes identify a data set."""
Read = Callable[[int], bytes | memoryview]
"""Reads the bytes of a sample by its index."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochSteps:
    """The division of an epoch into micro steps: full optimizer steps; the rest is left out."""

    samples: int
    """Number of samples that an epoch draws: those of the data set, unless it is told otherwise."""
    data: int
    """`digest_of` the data set."""
    stride: int
    """Samples that all ranks together draw for one micro step."""
    accum_iter: int
    """Micro steps per optimizer step."""

    def __len__(self) -> int:
        return self.samples // (self.stride * self.accum_iter) * self.accum_iter

    def state(self, epoch: int, step: int) -> dict[str, Any]:
        """Return the state of a loader that has yielded `step` micro steps of `epoch`."""
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
        """Return (epoch, micro steps done) to resume from after `state`, whatever its batches were.

        At the end of an epoch all steps are done, even if this loader would have used more samples.
        Within an epoch, with other batches, full optimizer steps are done: as many as skip no
        sample, and at least one remains.
        main: log what changes. Raises `DataError` in the middle of an epoch if the data differ.
        """
        done = state["step"] * state["stride"]
        finished = state.get("finished", self._was_end_of_epoch(state, done))
        change = self._change_of_data(state)
        if change and done and not finished:
            other = "--resume a checkpoint-N.pth, which is from the end of an epoch"
            raise DataError(
                f"cannot resume within epoch {state['epoch']} with other data ({change}): use the "
                f"same data, or {other if state['epoch'] else 'start a new run'}"
            )
        if change and main:
            log.warning("resumed with other data than before: %s", change)
        if finished:
            return state["epoch"], len(self)
        if (state["stride"], state.get("accum_iter")) == (self.stride, self.accum_iter):
            return state["epoch"], state["step"]
        step = self._last_update(done)
        again = min(done, len(self) * self.stride) - step * self.stride
        if main and again:
            log.warning(
                "%d samples of epoch %d are repeated: %d had been used, and a step now takes %d, "
                "not %d; to repeat none, resume with --batch_size, --accum_iter and processes as "
                "before, or from a checkpoint-N.pth (the end of an epoch)",
                again, state["epoch"], done, self.stride * self.accum_iter,
                state["stride"] * (state.get("accum_iter") or 1),
            )  # fmt: skip
        return state["epoch"], step

    def _last_update(self, done: int) -> int:
        """Return the last micro step that starts an optimizer step at or before sample `done`.

        The optimizer step also has to end within the epoch.
        """
        update = self.stride * self.accum_iter
        return min(done // update, self.samples // update - 1) * self.accum_iter

    def _was_end_of_epoch(self, state: dict[str, Any], done: int) -> bool:
        """Return whether an old state, which does not record that, was the end of its epoch.

        It was if fewer samples were left than its optimizer step took.
        """
        accum_iter = state.get("accum_iter")
        if self.samples - done < state["stride"] * (accum_iter or 1):
            return True
        return accum_iter is None and done >= len(self) * self.stride

    def _change_of_data(self, state: dict[str, Any]) -> str:
        """Describe how the data differ from the state's; "" if no difference is known."""
        samples = state.get("samples", self.samples)
        if samples != self.samples:
            return f"{samples} samples then, {self.samples} now"
        same = state.get("data", self.data) == self.data
        differ = f"{samples} samples as before, but other images or labels, or another order"
        return "" if same else differ


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return up to `most` numbers below `count`, evenly spaced from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def digest_of(
    labels: NDArray[np.int64], read: Read | None = None, chosen: NDArray[np.int64] | None = None
) -> int:
    """Identify a data set by its labels, int64 [N], and the bytes of some images.

    Names, times and containers do not count: the same samples in the same order are the same data.
    chosen: the positions of the samples that count, if not all do.
    """
    whole = chosen is None or len(chosen) == len(labels)
    used = np.arange(len(labels)) if whole else chosen
    digest = zlib.crc32(np.ascontiguousarray(labels[used], dtype="<i8"))
    if not whole:
        digest = zlib.crc32(np.ascontiguousarray(used, dtype="<i8"), digest)
    if read is not None:
        for index in evenly_spaced(len(used), SAMPLED):
            with contextlib.suppress(SkipImage):  # the loader reports it when it comes up
                digest = zlib.crc32(read(int(used[index])), digest)
    return digest
