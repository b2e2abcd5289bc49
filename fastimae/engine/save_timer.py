"""--save_seconds: the time between saves of checkpoint-last.pth."""

from __future__ import annotations

import time

from fastimae.engine.distributed import World


class SaveTimer:
    """Tells when enough seconds have passed since the last save, by the main process's clock.

    seconds: 0 saves after each epoch, and never within one.
    """

    def __init__(self, seconds: float, world: World) -> None:
        self.seconds, self.world = seconds, world
        self.restart()

    def restart(self) -> None:
        """Begin to count: the run starts, or has saved."""
        self.began = time.monotonic()

    def is_due(self, *, within: bool) -> bool:
        """Return whether to save now, the same in all processes: they ask together, and wait for
        each other and their devices. within: an epoch, not at its end."""
        if not self.seconds:
            return not within
        passed = time.monotonic() - self.began >= self.seconds
        return self.world.any(self.world.is_main and passed)
