"""Switches off parts of our step, one at a time, by patching FastIMAE."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from fastimae.kernels import Mask, add_norm, attention, set_default_impl
from fastimae.kernels._attention_choice import AttentionChoice, Pass, choose, tile_of
from fastimae.kernels.late_bias import late_bias
from fastimae.kernels.rows import masked_rows
from fastimae.loaders import Batch
from fastimae.models import MaskedAutoencoder, vit
from fastimae.objectives import IMAE, MAE

if TYPE_CHECKING:
    from benchmarks.train.fastimae_step import FastImaeStep


@contextlib.contextmanager
def switched(objective: MAE | IMAE, variant: FastImaeStep) -> Iterator[None]:
    """Apply the variant's switches within the context."""
    with contextlib.ExitStack() as stack:
        set_default_impl(
            "auto" if variant.triton else "torch", mlp=None if variant.epilogues else "torch"
        )
        stack.callback(set_default_impl, "auto")
        if not variant.masked_only:
            decode = every_row(objective.student)
            stack.enter_context(mock.patch.object(objective.student, "decode", decode))
        if not variant.batched and isinstance(objective, IMAE):
            for name, method in one_by_one(objective).items():
                stack.enter_context(mock.patch.object(objective, name, method))
        if not variant.products:
            # The package's attribute of this name is the op, not its module.
            module = sys.modules["fastimae.kernels.attention"]
            for user in (module, vit):
                stack.enter_context(mock.patch.object(user, "cross_attention", sdpa))
        for patch in _patches(objective, variant):
            stack.enter_context(patch)
        yield


def _patches(
    objective: MAE | IMAE, variant: FastImaeStep
) -> Iterator[contextlib.AbstractContextManager]:
    """Yield the patches for what our kernels do on a GPU."""
    if not variant.norms:
        yield mock.patch.object(vit, "add_norm", torch_add_norm)
        yield mock.patch.object(vit, "attention", attention_then_bias)
    if not variant.tiles:
        module = sys.modules["fastimae.kernels.attention"]
        yield mock.patch.object(module, "choose", with_plain_passes)
    if not variant.shared_tokens:
        yield mock.patch.object(objective.student, "_shares_mask_tokens", lambda *_: False)
    if variant.pairs:
        yield mock.patch.object(objective, "reciprocal_pairs", True)


def every_row(student: MaskedAutoencoder) -> Callable[..., Tensor]:
    """Make a `decode` that computes all rows before it picks the requested ones."""
    decode = student.decode

    def all_then_some(head: Tensor, mask: Mask, rows: Mask | None = None) -> Tensor:
        every = decode(head, mask)
        return masked_rows(every, rows) if rows else every

    return all_then_some


def one_by_one(objective: IMAE) -> dict[str, Callable[..., Tensor]]:
    """Make methods of `objective` that take one image of a mixture after the other."""
    student = objective.student

    def reconstruction(batch: Batch, mask: Mask, heads: Tensor) -> Tensor:
        own = torch.arange(len(batch.images), device=batch.images.device)
        losses = [
            student.reconstruction_loss(
                student.decode(head, mask, rows=mask), batch.images, target,
                mask.ids_masked, branches=1,
            )
            for head, target in zip(heads, (own, batch.partner), strict=True)
        ]  # fmt: skip
        return torch.cat(losses)

    def teacher_latents(batch: Batch, mask: Mask, views: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([objective._teacher_latent(view, mask) for view in views[1:]])

    return {"_reconstruction": reconstruction, "_teacher_latents": teacher_latents}


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run `cross_attention` by SDPA."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def torch_add_norm(*tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Run `add_norm` in torch, on a GPU too."""
    return add_norm(*tensors, impl="torch")


def attention_then_bias(qkv: Tensor, bias: Tensor) -> Tensor:
    """Run `attention` with a separate backward pass for the bias."""
    return attention(late_bias(qkv, bias))


def with_plain_passes(tokens: int, width: int, device: torch.device) -> AttentionChoice:
    """Choose as the table does; tiles of more than 64 keys: 32 queries at a time, all keys."""
    choice, tile = choose(tokens, width, device), tile_of(tokens, width)
    if tile is None or tile.keys <= 64:
        return choice
    plain = Pass(32, 4 if tile.keys * width <= 4096 else 8, 1)
    return choice._replace(forward=plain, backward=plain)
