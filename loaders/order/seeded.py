"""The global random generators of Python, NumPy and torch, seeded for one call of foreign code."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

_KEY_BITS = (1 << 64) - 1


def seeded_by(key: int, stream: int = 0) -> contextlib.AbstractContextManager[None]:
    """Seed them with a sample's key, an int64; other streams have other random numbers."""
    return seeded(key & _KEY_BITS, *([stream] if stream else []))


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the random generators that transforms draw from with `key`, and restore them after."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    number = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - transforms draw from it
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
