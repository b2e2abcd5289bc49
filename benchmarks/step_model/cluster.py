"""Several GPUs: memory of each, what they exchange, and how long a step waits for that."""

from __future__ import annotations

import dataclasses

from benchmarks.step_model.assumptions import Card, E, memory
from benchmarks.step_model.step import CaseSizes

NVLINK, NETWORK = 360e9, 320e9
"""Bus bytes per second of a reduction: 80 % of NVLink 4's 450 GB/s per GPU; between nodes, 80 % of
eight 400 Gb/s cards per node, one per GPU."""
A_NODE = 8
BACKWARD = 2 / 3
"""Share of a step in which gradients appear, one after another."""
LAST_BYTES = 25 << 20
"""Bytes of the bucket that is complete when backward ends, so that nothing can hide it."""
KEPT_ROWS = 16
"""Rows of the model's width that a block keeps per token for backward: both sums, both normed sums,
q, k and v, attention's output, and the MLP, four times as wide, before and after GELU."""
CONTEXT = 1.0e9
"""Bytes of CUDA's context, of cuBLAS' workspaces and of unused allocations: a guess."""


@dataclasses.dataclass(frozen=True)
class Share:
    """Memory and times of one of several GPUs."""

    weights: float
    """Bytes of masters, moments, copies, gradients and buckets."""
    activations: float
    """Bytes kept for backward."""
    sent: float
    """Bytes that it sends per step."""
    exchange: float
    """Seconds of sending, if nothing hides it."""
    step: float
    """Seconds of a step, including what is not hidden."""

    @property
    def memory(self) -> float:
        """Bytes in total."""
        return self.weights + self.activations + CONTEXT


def share(card: Card, model: CaseSizes, alone: float, gpus: int, *, sharded: bool = False) -> Share:
    """Model one of `gpus` GPUs, each with the model's batch. alone: seconds of a step on one.

    DDP averages fp32 gradients in buckets while backward continues. sharded: FSDP, which gathers
    bf16 weights twice and scatters fp32 sums of gradients: the same number of bytes.
    """
    count = model.parameters
    sent = 0.0 if gpus == 1 else 2 * (gpus - 1) / gpus * 4 * count
    bus = NVLINK if gpus <= A_NODE else NETWORK
    exchange = sent / bus
    step = alone
    if gpus > 1:
        moved = memory(card, 8 * count)  # into fp32 buckets, which the update reads
        step += moved + max(exchange - BACKWARD * alone, 2 * LAST_BYTES / bus)
    return Share(weights(model, gpus, sharded=sharded), activations(model), sent, exchange, step)


def weights(model: CaseSizes, gpus: int, *, sharded: bool) -> float:
    """Compute the bytes of weights, moments, copies, gradients and buckets."""
    count, frozen = model.parameters, model.frozen * E
    if sharded:
        largest = max(model.encoder.width, model.decoder.width)
        gathered = 3 * 12 * largest**2 * E  # a block, the next one, and its gradients
        return count * (4 + 8 + 4) / gpus + gathered + frozen
    buckets = 4 if gpus > 1 else 0
    return count * (4 + 8 + 2 + 2 + buckets) + frozen


def activations(model: CaseSizes) -> float:
    """Compute the bytes that all blocks keep for backward."""
    stacks = (model.encoder, model.decoder)
    return sum(
        KEPT_ROWS * E * stack.depth * stack.samples * stack.tokens * stack.width for stack in stacks
    )
