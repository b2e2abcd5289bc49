"""Rates of GPUs, and what follows for products, passes over memory and attention.

Nothing here was measured by us, unless it says so.
"""

from __future__ import annotations

import dataclasses

E = 2
"""Bytes of a bf16 number."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU's rates."""

    name: str
    product_flops: float
    """Operations per second of a large square bf16 product of random numbers."""
    copy_bytes: float
    """Bytes per second that a device copy reads and writes."""
    clock: float = 1.755e9
    """Cycles per second."""
    processors: int = 132
    epilogues: float = 0.9
    """Rate of our products with epilogues, as a share of cuBLAS' without: a guess."""


CARDS = {
    "H100": Card("H100 SXM 80 GB", 798e12, 3.0e12),
    "H200": Card("H200 SXM 141 GB", 798e12, 4.3e12),
}
"""Product and copy rates of an H100, and the copy rate of an H200, as once measured by others."""

ELEMENTWISE = 0.88
"""Share of the copy rate that a pass over memory reaches."""
GRAPH_NODE = 1.3e-6
"""Seconds between two kernels of a recorded graph."""
LONG_PRODUCT, SHORT_PRODUCT, WEIGHT_PRODUCT = 0.80, 0.72, 0.60
"""Shares of the square product's rate: of sums over 768 numbers or more, over fewer, and of the
gradient of a weight, which has few tiles and long sums."""
FP8_PRODUCT = 1.5
"""Gain of a product in fp8, quantisation included, at a teacher's widths."""


def product(card: Card, m: int, n: int, k: int, *, weight: bool = False) -> float:
    """Compute the seconds of [m, k] x [k, n]. weight: it is the gradient of a weight."""
    share = WEIGHT_PRODUCT if weight else LONG_PRODUCT if k >= 768 else SHORT_PRODUCT
    moved = E * (m * k + n * k + m * n)
    return max(2 * m * n * k / (card.product_flops * share), memory(card, moved))


def memory(card: Card, moved: float) -> float:
    """Compute the seconds of a pass that reads and writes this many bytes."""
    return moved / (card.copy_bytes * ELEMENTWISE)


@dataclasses.dataclass(frozen=True)
class TileCost:
    """Cost of the attention kernel for one head."""

    cycles: int
    """Cycles of one program for one head; estimated from its instructions and barriers."""
    programs: int
    """Programs on a multiprocessor at once, by the compiler's registers and shared memory."""


SHORT = (TileCost(3200, 6), TileCost(7500, 3))
"""Forward and backward, with a head's keys and queries in one tile of 64."""
LONG = (TileCost(1500 + 7 * 1800, 2), TileCost(2500 + 7 * 3600, 1))
"""256 keys, 32 queries at a time, whose sums over keys are too short for Hopper's products."""
LONG_TUNED = (TileCost(1500 + 7 * 1080, 3), TileCost(27_000, 2))
"""Forward: 4 warps that hold whole rows need 30 % of the instructions, so 60 % per warp. Backward:
4 warps over half the keys, twice, with the next queries loading meanwhile; by its instructions and
the latency of two programs, half the cycles per head of LONG. Programs follow from registers, 163
and 200 per thread."""


def attention(
    card: Card, samples: int, tokens: int, heads: int, width: int, tiles: tuple[TileCost, TileCost]
) -> tuple[float, float]:
    """Compute the seconds of our kernel, forward and backward: by its cycles or its bytes."""
    size = samples * tokens * heads * width * E
    waves = samples * heads / card.processors / card.clock
    return tuple(
        max(memory(card, moved * size), waves * tile.cycles / tile.programs)
        for moved, tile in zip((4, 8), tiles, strict=True)
    )


def cudnn_attention(
    card: Card, samples: int, tokens: int, heads: int, width: int
) -> tuple[float, float]:
    """Compute the seconds of torch's cuDNN back end, forward and backward.

    It has tiles of 128, and joins the gradients of q, k and v in an extra pass.
    """
    padded, share = -(-tokens // 128) * 128, 1.0 if width >= 64 else 0.6
    work = padded * padded * width * samples * heads
    size = samples * tokens * heads * width * E
    forward = max(memory(card, 4 * size), 4 * work / (350e12 * share))
    backward = max(memory(card, 8 * size), 10 * work / (300e12 * share))
    return forward, backward + memory(card, 6 * size)
