"""The plan of an epoch drawn on a device: `Sampler.steps` in torch, bit for bit.

S = micro steps of an epoch, B = rows of a rank's batch, M = samples that are used.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastimae.kernels.random_masking import philox_at
from fastimae.loaders.order.philox import COPY_SHIFT, KeyStream
from fastimae.loaders.order.sampler import Sampler

_LOW, _HALF = 0xFFFFFFFF, 32


class DevicePlan:
    """Draws the steps of epochs; what all epochs have in common stays on the device."""

    def __init__(self, sampler: Sampler, device: torch.device) -> None:
        numbers = np.arange(len(sampler))
        self.sampler, self.device = sampler, device
        self._chosen, self._position, self._update, self._copy, self._partner = (
            self.upload(array)
            for array in (
                sampler.chosen,
                sampler.positions(numbers),
                numbers[:, None] // sampler.accum_iter,
                sampler.copy,
                np.broadcast_to(sampler.partner, (len(numbers), sampler.batch_size)),
            )
        )

    def steps(self, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return index, key, partner, int64 [S, B], and step_key, [S, 1], of all steps of `epoch`.

        An order that follows from the samples' keys alone is drawn here, without waiting for the
        device; one that depends on labels, or has several passes, comes from the host.
        """
        if not self.sampler.has_free_order:
            steps = self.sampler.steps(epoch, np.arange(len(self.sampler)))
            fields = (steps.index, steps.key, steps.partner, steps.step_key)
            return tuple(self.upload(field) for field in fields)
        order = self._keys(self._chosen, epoch, KeyStream.ORDER).argsort(stable=True)
        index = self._chosen[order][self._position]
        key = self._keys(index, epoch, KeyStream.SAMPLE, self._copy)
        return index, key, self._partner, self._keys(self._update, epoch, KeyStream.STEP)

    def upload(self, array: np.ndarray) -> Tensor:
        """Copy an array to the device."""
        return torch.tensor(array, device=self.device)

    def _keys(
        self, numbers: Tensor, epoch: int, stream: KeyStream, copies: Tensor | int = 0
    ) -> Tensor:
        return derive_keys(self.sampler.seed, numbers, epoch, stream, copies)


def derive_keys(
    seed: int, numbers: Tensor, epoch: int, stream: KeyStream, copies: Tensor | int = 0
) -> Tensor:
    """Derive keys on the device of `numbers`, int64; see `derive_keys` of order/philox.py."""
    key = torch.full_like(numbers, np.array(seed % 2**64, np.uint64).astype(np.int64).item())
    last = torch.zeros_like(numbers) + (copies << COPY_SHIFT) + int(stream)
    counter = numbers & _LOW, numbers >> _HALF, torch.full_like(numbers, epoch), last
    low, high, *_ = philox_at(key, *counter)
    return low | high << _HALF
