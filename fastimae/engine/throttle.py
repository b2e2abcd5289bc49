"""Limits on how far the host runs ahead of a GPU."""

from __future__ import annotations

from collections import deque

import torch

AHEAD = 2
"""In steps, or in graphs of several. With fewer, the GPU would wait for the host; with more,
batches pile up in memory, and waiting for data does not show in the measured `data_wait`."""


class Throttle:
    """Keeps the host at most `ahead` steps ahead of `device`; does nothing on a CPU."""

    def __init__(self, device: torch.device, ahead: int = AHEAD) -> None:
        self.device, self.ahead = device, ahead
        self._ends: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Wait, after each step, until the step `ahead` steps earlier has ended."""
        if self.device.type != "cuda":
            return
        end = torch.cuda.Event(blocking=True)  # sleeps: the core is free for decoders
        end.record(torch.cuda.current_stream(self.device))
        self._ends.append(end)
        if len(self._ends) > self.ahead:
            self._ends.popleft().synchronize()


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
