"""Calls of the ops in blocks: at the models' shapes, and with every setting that sweeps try."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.attention.cases import SHAPES, AttentionShape, Direction, passes
from benchmarks.mlp.cases import MlpShape, blocks_to_try
from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels import _mlp_tile as mlp_kernel
from fastimae.kernels._attention_choice import Pass, tile_of
from fastimae.kernels._mlp_choice import Blocks
from fastimae.kernels.add_norm import add_norm
from fastimae.kernels.attention import attention
from fastimae.kernels.mlp import mlp
from tests.aot.models import AotCase, ModelSizes, floats


def block_cases(model: ModelSizes) -> Iterator[AotCase]:
    """Yield the ops that a block of a model is made of."""
    yield from _add_norm_of(model)
    yield from _attention_of(model)
    yield from _mlp_of(model)


def settings_cases() -> Iterator[AotCase]:
    """Yield every setting that a sweep may choose, each at one shape."""
    yield from _passes()
    yield from _blocks()


def _add_norm_of(model: ModelSizes) -> Iterator[AotCase]:
    sums = {"out_ptr": model.dtype.itemsize}  # one per thread, after it has read many
    for where, call, narrow in (
        ("encoder", _add_norm, sums),
        ("decoder", _add_norm_decoder, sums),
        ("final", _add_norm_final, sums),
        ("teacher", _add_norm_teacher, {}),
    ):
        yield AotCase("add_norm", f"{model.name} {where}", functools.partial(call, model), narrow)


def _add_norm(model: ModelSizes) -> Tensor:
    return sum(_sum_and_norm(model, 1 + model.keep, model.width))


def _add_norm_decoder(model: ModelSizes) -> Tensor:
    return sum(_sum_and_norm(model, 1 + model.patches, model.decoder_width))


def _add_norm_final(model: ModelSizes) -> Tensor:
    """Add and normalise where the sum itself is not used."""
    return _sum_and_norm(model, 1 + model.keep, model.width)[1]


@torch.no_grad()
def _add_norm_teacher(model: ModelSizes) -> object:
    return _sum_and_norm(model, 1 + model.keep, model.width)


def _sum_and_norm(model: ModelSizes, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    x, change = (floats(model, tokens, width) for _ in range(2))
    vectors = [torch.zeros(width, dtype=model.dtype, requires_grad=True) for _ in range(3)]
    return add_norm(x, change, *vectors, 1e-6, impl="triton")


def _attention_of(model: ModelSizes) -> Iterator[AotCase]:
    """Yield attention of a model's encoder and decoder, where a kernel supports it."""
    for where, tokens, heads, width in (
        ("encoder", 1 + model.keep, model.heads, model.width),
        ("decoder", 1 + model.patches, model.decoder_heads, model.decoder_width),
    ):
        if model.dtype != torch.float32 and tile_of(tokens, width // heads):
            shape = tokens, 3, heads, width // heads
            call = functools.partial(_attention, model, shape)
            yield AotCase("attention", f"{model.name} {where}", call)


def _attention(model: ModelSizes, shape: tuple[int, ...]) -> object:
    bias = torch.zeros(torch.Size(shape[1:]).numel(), requires_grad=True)
    return attention(floats(model, *shape), bias, impl="triton")


def _passes() -> Iterator[AotCase]:
    """Yield every pass that `benchmarks.attention` may choose for an architecture."""
    for shape, direction in itertools.product(SHAPES, ("forward", "backward")):
        on = {number: passes(shape, direction, number) for number in (80, 90, 100)}
        for one in dict.fromkeys(itertools.chain(*on.values())):
            name = f"{shape} {direction} {'x'.join(map(str, one))}"
            only_on = frozenset(number for number in on if one in on[number])
            call = functools.partial(_pass, dataclasses.replace(shape, batch=16), direction, one)
            yield AotCase("attention", name, call, only_on=only_on)


def _pass(shape: AttentionShape, direction: Direction, one: Pass) -> None:
    qkv, grad = shape.inputs(torch.device("cpu"))
    tile = tile_of(shape.tokens, shape.head_dim)
    if direction == "forward":
        kernel.forward(qkv, tile, one)
    else:
        lse = torch.empty(kernel.lse_shape(qkv, tile))
        kernel.backward(grad, qkv, torch.empty_like(grad), lse, tile, one, summed=True)


def _mlp_of(model: ModelSizes) -> Iterator[AotCase]:
    """Yield the MLPs of a model's encoder and decoder, and a teacher's, which keeps nothing."""
    if model.dtype == torch.float32:
        return
    for where, tokens, width, train in (
        ("encoder", 1 + model.keep, model.width, True),
        ("decoder", 1 + model.patches, model.decoder_width, True),
        ("teacher", 1 + model.keep, model.width, False),
    ):
        call = functools.partial(_mlp, model, tokens, width, train)
        yield AotCase("mlp", f"{model.name} {where}", call, long_sums=True)


def _mlp(model: ModelSizes, tokens: int, width: int, train: bool) -> object:
    shapes = (4 * width, width), (4 * width,), (width, 4 * width), (width,)
    parameters = [torch.zeros(*shape, dtype=model.dtype, requires_grad=train) for shape in shapes]
    with torch.set_grad_enabled(train):
        return mlp(floats(model, tokens, width), *parameters, impl="triton")


def _blocks() -> Iterator[AotCase]:
    """Yield all blocks that `benchmarks.mlp` may choose for an architecture, at one shape."""
    for direction in ("forward", "backward"):
        on = {number: blocks_to_try(direction, number) for number in (80, 90, 100)}
        for one in dict.fromkeys(itertools.chain(*on.values())):
            name = f"{direction} {'x'.join(map(str, one))}"
            only_on = frozenset(number for number in on if one in on[number])
            call = functools.partial(_product, MlpShape(1024, 512), direction, one)
            yield AotCase("mlp", name, call, only_on=only_on, long_sums=True)


def _product(shape: MlpShape, direction: str, blocks: Blocks) -> None:
    x, weight1, bias1, weight2, grad, h = shape.inputs(torch.device("cpu"))
    if direction == "forward":
        mlp_kernel.forward(x, weight1, bias1, blocks, keep=True)
    else:
        mlp_kernel.backward(grad, weight2, h, blocks)
