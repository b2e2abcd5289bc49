"""The kernels of a transformer block and their seconds, with any set of rungs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from benchmarks.rungs import NORMS, PRODUCTS, TABLE, TILES
from benchmarks.step_model.assumptions import (
    LONG,
    LONG_TUNED,
    SHORT,
    Card,
    E,
    attention,
    cudnn_attention,
    memory,
    product,
)
from fastimae.kernels._attention_choice import rounded, table_for

Kernels = dict[str, float]
"""Seconds by kernel."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """The blocks of one width in a step."""

    depth: int
    width: int
    heads: int
    samples: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class BlockTimes:
    """Times of the kernels of one block, forward and backward."""

    forward: Kernels
    backward: Kernels

    @property
    def seconds(self) -> float:
        """Sum over all kernels, without the gaps between them."""
        return sum(self.forward.values()) + sum(self.backward.values())


def block(card: Card, stack: Stack, rungs: Collection[str]) -> BlockTimes:
    """Model a block in the middle of a stack."""
    rows, d = stack.samples * stack.tokens, stack.width
    flash = attention_of(card, stack, rungs)
    forward = _projections(card, rows, rows, d, flash[0]) | _mlp(card, rows, d, rungs)
    backward = _mlp_backward(card, rows, d, rungs)
    backward |= _attention_backward(card, rows, rows, d, flash[1], rungs)
    return BlockTimes(forward, backward)


def first_block(card: Card, stack: Stack, visible: int, rungs: Collection[str]) -> BlockTimes:
    """Model the decoder's first block. visible: rows per sample that are not mask tokens."""
    plain = block(card, stack, rungs)
    if TABLE not in rungs:
        return plain
    rows, d = stack.samples * stack.tokens, stack.width
    few, table = stack.samples * visible, stack.tokens
    placed = memory(card, E * 3 * d * (few + rows))
    summed = memory(card, E * 3 * d * (rows + few))
    forward = plain.forward | {
        "sum and norm 1": memory(card, 4 * few * d * E),
        "qkv": product(card, few + table, 3 * d, d),
        "rows put in place": placed,
    }
    backward = plain.backward | {
        "qkv dX": product(card, few + table, d, 3 * d),
        "qkv dW": product(card, 3 * d, d, few + table, weight=True),
        "sum and norm 1": plain.backward["sum and norm 1"] * few / rows,
        "rows taken, mask tokens' added up": summed,
    }
    return BlockTimes(forward, backward)


def last_block(card: Card, stack: Stack, masked: int, rungs: Collection[str]) -> BlockTimes:
    """Model the decoder's last block: after keys and values, `masked` rows of each sample remain.

    SDPA computes its attention. The rows are gathered, and their gradients scattered.
    """
    all_rows, rows, d = stack.samples * stack.tokens, stack.samples * masked, stack.width
    shape = stack.samples, stack.tokens, stack.heads, d // stack.heads
    flash = [0.8 * seconds for seconds in cudnn_attention(card, *shape)]
    forward = _projections(card, all_rows, rows, d, flash[0]) | _mlp(card, rows, d, rungs)
    backward = _mlp_backward(card, rows, d, rungs)
    backward |= _attention_backward(card, all_rows, rows, d, flash[1], rungs)
    return BlockTimes(forward, backward | {"rows taken": memory(card, 10 * all_rows * d * E)})


def attention_of(card: Card, stack: Stack, rungs: Collection[str]) -> tuple[float, float]:
    """Model attention, forward and backward: ours if the GPU's table chooses it, else SDPA."""
    width = stack.width // stack.heads
    shape = stack.samples, stack.tokens, stack.heads, width
    if table_for((9, 0))[rounded(stack.tokens, width)].use == "sdpa":
        return cudnn_attention(card, *shape)
    long = LONG_TUNED if TILES in rungs else LONG
    return attention(card, *shape, SHORT if stack.tokens <= 64 else long)


def _projections(card: Card, rows: int, few: int, d: int, attended: float) -> Kernels:
    return {
        "sum and norm 1": memory(card, 4 * rows * d * E),
        "qkv": product(card, rows, 3 * d, d),
        "attention": attended,
        "proj": product(card, few, d, d),
        "sum and norm 2": memory(card, 4 * few * d * E),
    }


def _mlp(card: Card, rows: int, d: int, rungs: Collection[str]) -> Kernels:
    first = product(card, rows, 4 * d, d)
    last = {"fc2": product(card, rows, d, 4 * d)}
    if PRODUCTS in rungs:  # it also writes the input of GELU
        written = memory(card, E * (rows * (d + 2 * 4 * d) + 4 * d * d))
        return {"fc1 and GELU": max(first / card.epilogues, written)} | last
    return {"fc1": first, "GELU": memory(card, 2 * rows * 4 * d * E)} | last


def _mlp_backward(card: Card, rows: int, d: int, rungs: Collection[str]) -> Kernels:
    grad = product(card, rows, 4 * d, d)
    weight = {"fc2 dW": product(card, d, 4 * d, rows, weight=True)}
    after = {
        "fc1 dX": product(card, rows, d, 4 * d),
        "fc1 dW": product(card, 4 * d, d, rows, weight=True),
    }
    if PRODUCTS in rungs:  # it also reads the input of GELU
        moved = memory(card, E * (rows * (d + 2 * 4 * d) + 4 * d * d))
        return {"fc2 dX, dGELU, fc1 db": max(grad / card.epilogues, moved)} | weight | after
    hidden = rows * 4 * d * E
    alone = {"dGELU": memory(card, 3 * hidden), "fc1 db": memory(card, hidden)}
    return {"fc2 dX": grad} | weight | alone | after


def _attention_backward(
    card: Card, rows: int, few: int, d: int, attended: float, rungs: Collection[str]
) -> Kernels:
    found = {
        "sum and norm 2": memory(card, 4 * few * d * E),
        "proj dX": product(card, few, d, d),
        "proj dW": product(card, d, d, few, weight=True),
        "attention": attended,
        "qkv dX": product(card, rows, d, 3 * d),
        "qkv dW": product(card, 3 * d, d, rows, weight=True),
        "sum and norm 1": memory(card, 4 * rows * d * E),
    }
    if NORMS not in rungs:  # torch 2.11's compiler also computes a norm's own gradients in one pass
        biases = {"proj db": few * d * E, "qkv db": rows * 3 * d * E, "fc2 db": few * d * E}
        found |= {name: memory(card, moved) for name, moved in biases.items()}
    return found
