"""torch's counters of a GPU's memory, without a GPU."""

from types import SimpleNamespace

import torch

EVENT = SimpleNamespace(record=lambda *_: None, synchronize=lambda: None)


class CudaMemory:
    """Bytes allocated now and at peak, reported by torch.cuda's functions. patch: MonkeyPatch.

    The GPU has always finished: there is nothing to wait for.
    """

    def __init__(self, patch, allocated=0):
        self.allocated = self.peak = allocated
        for name, function in {
            "memory_allocated": lambda _: self.allocated,
            "max_memory_allocated": lambda _: self.peak,
            "reset_peak_memory_stats": lambda _: setattr(self, "peak", self.allocated),
            "empty_cache": lambda: None,
            "synchronize": lambda _=None: None,
            "Event": lambda **_: EVENT,
            "current_stream": lambda *_: SimpleNamespace(record_event=lambda: EVENT),
        }.items():
            patch.setattr(torch.cuda, name, function)

    def keep(self, count):
        """Allocate memory and keep it."""
        self.allocated += count
        self.touch(0)

    def touch(self, count):
        """Allocate memory and free it."""
        self.peak = max(self.peak, self.allocated + count)

    def recorded(self, activations, warm_up):
        """Return a step that is recorded after some calls: replays allocate nothing but use the
        graph's memory."""
        steps = iter([activations] * (warm_up + 1))
        return lambda *_: self.touch(next(steps, 0))
