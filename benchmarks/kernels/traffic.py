"""Bytes per image that a step moves outside of matrix products and transformer blocks.

The plain pipeline runs without blocks, on a CPU, and every operation is charged with the tensors
that it reads and writes: preparing and masking the input, filling the decoder's input, the losses,
and the backward pass of all of them. Ours is the sum of the formulas in `cases`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.kernels import cases as kernel_cases
from benchmarks.kernels.shapes import ModelShape
from benchmarks.reference import PlainMAE, plain_imae_loss

# Not counted: matrix products and norms, which both pipelines have, and what moves no bytes.
_SAME = ("mm", "bmm", "addmm", "convolution", "layer_norm", "linear")
_NOTHING = ("empty", "new_empty", "empty_like")


class ByteCounter(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removeprefix("native_").removesuffix("_backward")
        if not func.is_view and name not in (*_SAME, *_NOTHING):
            self.bytes += moved(tree_leaves((args, kwargs))) + moved(tree_leaves(out))
        return out


def moved(leaves: Iterable[object]) -> int:
    """Add up the bytes of the tensors among `leaves`; of an expanded tensor, those in memory."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return sum(min(x.numel() * x.itemsize, x.untyped_storage().nbytes()) for x in tensors)


def plain_bytes(shape: ModelShape) -> float:
    """Count the bytes per mixture of an i-MAE step of the plain pipeline, in bf16 autocast."""
    models = [_without_blocks(shape, heads) for heads in (2, 1)]
    few, many = 2, 4  # the cost of one more mixture: weights are the same
    return (_counted(models, shape, many) - _counted(models, shape, few)) / (many - few)


def _counted(models: list[PlainMAE], shape: ModelShape, batch: int) -> int:
    images = torch.randn(batch, 3, shape.side, shape.side)
    partner, noise = torch.arange(batch).roll(1), torch.rand(batch, shape.patches)
    with ByteCounter() as counter, torch.autocast("cpu", torch.bfloat16):
        plain_imae_loss(*models, images, partner, 0.3, noise).backward()
    return counter.bytes


def our_bytes(shape: ModelShape) -> float:
    """Count the bytes per mixture of an i-MAE step of ours."""
    once = [
        getattr(kernel_cases, name)(shape)
        for name in ("random_masking", "mixing_ratio", "mix_patchify", "masked_l2", "latent_l2")
    ]
    assemble = kernel_cases.assemble_tokens(shape)
    total = sum(case.both_bytes or case.forward_bytes for case in once)
    return (total + 2 * assemble.both_bytes) / shape.batch


def _without_blocks(shape: ModelShape, heads: int) -> PlainMAE:
    return PlainMAE(
        img_size=shape.side,
        patch_size=shape.patch,
        embed_dim=shape.width,
        depth=0,
        num_heads=shape.heads,
        decoder_embed_dim=shape.decoder_width,
        decoder_depth=0,
        decoder_num_heads=shape.decoder_heads,
        norm_pix_loss=True,
        heads=heads,
    )
