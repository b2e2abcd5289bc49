"""How far the host may run ahead of a GPU: some steps, or not at all."""

from __future__ import annotations

from collections import deque

import torch

AHEAD = 2
"""Steps. With fewer the GPU would wait for the host; with more, batches pile up in memory and
waiting for data hides."""


class Throttle:
    """Keeps the host at most `ahead` steps ahead of `device`; does nothing on a CPU."""

    def __init__(self, device: torch.device, ahead: int = AHEAD) -> None:
        self.device, self.ahead = device, ahead
        self._ends: deque[torch.cuda.Event] = deque()

    def wait(self) -> None:
        """Call after each step: returns once the one `ahead` steps before it has ended."""
        if self.device.type != "cuda":
            return
        end = torch.cuda.Event(blocking=True)  # leaves the core to decoders meanwhile
        end.record(torch.cuda.current_stream(self.device))
        self._ends.append(end)
        if len(self._ends) > self.ahead:
            self._ends.popleft().synchronize()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
