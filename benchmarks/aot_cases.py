"""Calls of every op at the shapes that training gives them, for `benchmarks.aot`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.attention_cases import SHAPES, Direction, Shape, passes
from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels._attention_choice import Pass, tile_of
from fastimae.kernels.assemble_tokens import assemble_tokens
from fastimae.kernels.attention import attention
from fastimae.kernels.latent_l2 import latent_l2
from fastimae.kernels.masked_l2 import masked_l2
from fastimae.kernels.mix_patchify import mix_patchify
from fastimae.kernels.mixing_ratio import LEVELS, mixing_ratio
from fastimae.kernels.random_masking import random_masking
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

STATISTICS = (IMAGENET_MEAN, IMAGENET_STD)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of an op, and of its backward pass if it has one.

    narrow: bytes a thread of bulk tensors that allow fewer than 8, by pointer. only_on: the
    architectures that it is for, if not for all.
    """

    op: str
    name: str
    call: Callable[[], object]
    narrow: Mapping[str, int] = dataclasses.field(default_factory=dict)
    only_on: frozenset[int] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """Sizes of a masked autoencoder in training. The batch is as divisible as real ones are."""

    name: str
    side: int
    patch: int
    width: int
    heads: int
    decoder_width: int = 512
    decoder_heads: int = 16
    batch: int = 16
    dtype: torch.dtype = torch.bfloat16

    @property
    def patches(self) -> int:
        """L, patches of an image."""
        return (self.side // self.patch) ** 2

    @property
    def keep(self) -> int:
        """K, visible patches."""
        return self.patches // 4

    @property
    def aligned(self) -> int:
        """Bytes that rows of a patch are aligned to: a patch's row has 3 * patch bytes."""
        return min(3 * self.patch & -(3 * self.patch), 8)


MODELS = (
    Model("ViT-B/16 224", 224, 16, 768, 12),
    Model("ViT-L/16 224", 224, 16, 1024, 16),
    Model("ViT-H/14 224", 224, 14, 1280, 16),
    Model("ViT-Ti/2 32", 32, 2, 192, 3, 192, 3),
    Model("ViT-Ti/4 32", 32, 4, 192, 3, 192, 3),
    Model("ViT-B/16 224 fp32", 224, 16, 768, 12, dtype=torch.float32),
)


def cases() -> Iterator[Case]:
    """Every op for every model, for MAE and i-MAE where they differ."""
    for model in MODELS:
        pixels = {"images_ptr": model.aligned}
        # Each id goes to its rank.
        ids = {"ids_keep_ptr": 4, "ids_masked_ptr": 4}
        for op, variant, call, narrow in (
            ("random_masking", "", _random_masking, ids),
            ("mixing_ratio", "i-MAE", _mixing_ratio, {"quantiles_ptr": 4}),
            ("mixing_ratio", "i-MAE, per sample", _mixing_ratio_each, {"quantiles_ptr": 4}),
            ("mix_patchify", "MAE", _patchify, pixels),
            ("mix_patchify", "i-MAE", _mix_patchify, pixels),
            ("assemble_tokens", "", _assemble_tokens, {}),
            ("masked_l2", "MAE", _masked_l2, pixels),
            ("masked_l2", "i-MAE", _masked_l2_branches, pixels),
            ("masked_l2", "raw, no gradient", _masked_l2_raw, pixels),
            ("latent_l2", "i-MAE", _latent_l2, {}),
            ("latent_l2", "no class token", _latent_l2_sliced, {}),
        ):
            yield _case(op, f"{model.name} {variant}".strip(), call, model, narrow)
        yield from _attention_of(model)
    yield from _passes()


def _case(
    op: str, name: str, call: Callable[[Model], object], model: Model, narrow: dict[str, int]
) -> Case:
    return Case(op, name, lambda: call(model), narrow)


def _attention_of(model: Model) -> Iterator[Case]:
    """Attention of a model's encoder and decoder, where a kernel serves it."""
    for where, tokens, heads, width in (
        ("encoder", 1 + model.keep, model.heads, model.width),
        ("decoder", 1 + model.patches, model.decoder_heads, model.decoder_width),
    ):
        if model.dtype != torch.float32 and tile_of(tokens, width // heads):
            shape = tokens, 3, heads, width // heads
            call = functools.partial(_attention, model, shape)
            yield Case("attention", f"{model.name} {where}", call)


def _attention(model: Model, shape: tuple[int, ...]) -> object:
    return attention(_floats(model, *shape), impl="triton")


def _passes() -> Iterator[Case]:
    """Every pass that `benchmarks.attention` may choose for an architecture."""
    for shape, direction in itertools.product(SHAPES, ("forward", "backward")):
        on = {number: passes(shape, direction, number) for number in (80, 90, 100)}
        for one in dict.fromkeys(itertools.chain(*on.values())):
            name = f"{shape} {direction} {'x'.join(map(str, one))}"
            only_on = frozenset(number for number in on if one in on[number])
            call = functools.partial(_pass, dataclasses.replace(shape, batch=16), direction, one)
            yield Case("attention", name, call, only_on=only_on)


def _pass(shape: Shape, direction: Direction, one: Pass) -> None:
    qkv, grad = shape.inputs(torch.device("cpu"))
    tile = tile_of(shape.tokens, shape.head_dim)
    if direction == "forward":
        kernel.forward(qkv, tile, one)
    else:
        kernel.backward(grad, qkv, torch.empty(kernel.lse_shape(qkv, tile)), tile, one)


def _images(model: Model) -> Tensor:
    return torch.zeros(model.batch, model.side, model.side, 3, dtype=torch.uint8)


def _ids(model: Model, count: int) -> Tensor:
    return torch.zeros(model.batch, count, dtype=torch.int32)


def _floats(model: Model, *shape: int) -> Tensor:
    return torch.zeros(model.batch, *shape, dtype=model.dtype, requires_grad=True)


def _random_masking(model: Model) -> object:
    across = model.side // model.patch
    key = torch.zeros(model.batch, dtype=torch.int64)
    return random_masking(key, (across, across), 0.75, impl="triton")


def _mixing_ratio(model: Model) -> object:
    """One key for the batch, as by default."""
    key = torch.zeros(1, dtype=torch.int64).expand(model.batch)
    return mixing_ratio(key, torch.zeros(LEVELS + 1), impl="triton")


def _mixing_ratio_each(model: Model) -> object:
    key = torch.zeros(model.batch, dtype=torch.int64)
    return mixing_ratio(key, torch.zeros(LEVELS + 1), impl="triton")


def _patchify(model: Model) -> object:
    ids = _ids(model, model.keep)
    return mix_patchify(
        _images(model), ids, model.patch, *STATISTICS, dtype=model.dtype, impl="triton"
    )


def _mix_patchify(model: Model) -> object:
    ids, partner = _ids(model, model.keep), torch.zeros(model.batch, dtype=torch.int64)
    mixing = (partner, torch.zeros(model.batch))
    return mix_patchify(
        _images(model), ids, model.patch, *STATISTICS, *mixing, dtype=model.dtype, impl="triton"
    )


def _assemble_tokens(model: Model) -> object:
    x = _floats(model, 1 + model.keep, model.decoder_width)
    token = torch.zeros(1, 1, model.decoder_width, requires_grad=True)
    positions = torch.zeros(1, 1 + model.patches, model.decoder_width)
    return assemble_tokens(x, token, positions, _ids(model, model.patches), impl="triton")


def _masked_l2(model: Model, branches: int | None = None, norm_pix: bool = True) -> Tensor:
    masked = model.patches - model.keep
    pred = _floats(model, masked, 3 * model.patch**2).repeat(branches or 1, 1, 1)
    target, ids = torch.zeros(len(pred), dtype=torch.int64), _ids(model, masked)
    return masked_l2(
        pred, _images(model), target, ids, model.patch, *STATISTICS, norm_pix,
        branches=branches, impl="triton",
    )  # fmt: skip


def _masked_l2_branches(model: Model) -> object:
    return _masked_l2(model, branches=2)


@torch.no_grad()
def _masked_l2_raw(model: Model) -> object:
    return _masked_l2(model, norm_pix=False)


def _latent_l2(model: Model) -> object:
    student, teacher = (_floats(model, 1 + model.keep, model.width) for _ in range(2))
    return latent_l2(student, teacher, branches=2, impl="triton")


def _latent_l2_sliced(model: Model) -> object:
    student, teacher = (_floats(model, 1 + model.keep, model.width) for _ in range(2))
    return latent_l2(student[:, 1:], teacher[:, 1:], impl="triton")
