"""What torch draws in a step: a function of the step, not of what was drawn before it."""

from __future__ import annotations

import numpy as np
import torch


def seed_draws(device: torch.device, *key: int) -> None:
    """Make what torch's generators draw next, on the CPU and on `device`, a function of `key`.

    So dropped paths need no state in checkpoints, and ranks draw apart from each other. Nothing
    waits for the device; a recorded CUDA graph draws from there on, too.
    """
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
