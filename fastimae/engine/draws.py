"""The random numbers that a step draws from torch's own generators."""

from __future__ import annotations

import numpy as np
import torch


def seed_draws(device: torch.device, *key: int) -> None:
    """Seed torch's generators, on the CPU and on `device`, with a function of `key`.

    With the step as the key, draws do not depend on earlier ones: dropped paths need no state in
    checkpoints, and ranks draw differently. Nothing waits for the device. Recorded CUDA graphs use
    the seed, too.
    """
    number = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def draws_so_far(device: torch.device) -> list[int]:
    """Return a value that changes when torch's generators, on the CPU and on `device`, draw."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))  # kept on the host: nothing waits
    return [number for state in states for number in state.tolist()]
