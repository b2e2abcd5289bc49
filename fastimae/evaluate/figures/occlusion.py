"""What the blocks of an encoder make of whole and of masked images, and how alike that is.

B = images, H, W, C = height, width, channels, L = patches, K = visible patches, N = tokens,
n = class tokens, D = encoder width, R = rows that are compared.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.evaluate.figures.similarity import Similarity
from fastimae.evaluate.mixing.mixtures import Pairs
from fastimae.evaluate.options.cka import CkaPool
from fastimae.kernels import Mask
from fastimae.kernels.reference import gather_rows
from fastimae.models import MaskedAutoencoder
from fastimae.models.forward_features import class_token_of
from fastimae.models.mask_tokens import embed_with_mask_tokens
from fastimae.models.vit import block_outputs


@torch.no_grad()
def similarities(
    model: MaskedAutoencoder,
    batches: Iterable[Pairs],
    mask_ratios: Sequence[float],
    unit: int,
    pool: CkaPool,
    mask_token: Tensor | None = None,
) -> dict[tuple[float, int], Similarity]:
    """Return how alike masked and whole images are, by mask ratio and block (from 0).

    unit: side, in patches, of the squares that are masked as a whole. pool: see `compared`.
    mask_token: see `block_tokens`. All passes advance block by block, so that no more than one
    block's tokens are kept.
    """
    found: dict[tuple[float, int], Similarity] = defaultdict(Similarity)
    for batch in batches:
        masks = [batch.mask(model, ratio, unit) for ratio in (0, *mask_ratios)]
        passes = [block_tokens(model, batch.images, mask, mask_token) for mask in masks]
        for block, (whole, *masked) in enumerate(zip(*passes, strict=True)):
            for ratio, mask, tokens in zip(mask_ratios, masks[1:], masked, strict=True):
                found[ratio, block].add(*compared(tokens, whole, mask, pool))
    return found


def block_tokens(
    model: MaskedAutoencoder, images: Tensor, mask: Mask, mask_token: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield what each block adds up to, [B, n + K, D]: class tokens and visible patches.

    That is the residual stream after the block, which all models have alike: the encoder's last
    norm belongs to its last block, and models that are fine-tuned on the mean have none for tokens.
    images: uint8 [B, H, W, C]. Masked patches are dropped, as MAE does; with a mask_token,
    [1, 1, D], it takes their places: [B, n + L, D].
    """
    (patches_BKV,) = model.visible_patches(images, mask)
    if mask_token is None:
        x_BND = model.embed(patches_BKV, mask.ids_keep)
    else:
        x_BND = embed_with_mask_tokens(model, mask_token, patches_BKV, mask)
    every = range(len(model.blocks))
    for _, tokens_BND in block_outputs(model.blocks, nn.Identity(), x_BND, every):
        yield tokens_BND


def mask_token_in(path: Path, *, averaged: bool = False) -> Tensor | None:
    """Return the mask token of the encoder in a checkpoint of C-MAE, [1, 1, D]; None without.

    averaged: that of the target model, whose weights are an average.
    """
    name = "target.mask_token.weight" if averaged else "mask_token.weight"
    with contextlib.suppress(CheckpointError):  # a folder or a .safetensors, of other programs
        return load_checkpoint(path, mmap=True).get("objective", {}).get(name)
    return None


def compared(masked: Tensor, whole: Tensor, mask: Mask, pool: CkaPool) -> tuple[Tensor, Tensor]:
    """Return the rows to compare, of the masked and of the whole image, both [R, D].

    masked: tokens [B, n + K, D], or [B, n + L, D] with mask tokens. whole: [B, n + L, D]. pool:
    "cls": class tokens, of several the mean; "avg": means of all other tokens of the encoder;
    "common": means of the patches that are visible in both; "tokens": each of these patches by
    itself, R = B * K.
    """
    n = whole.shape[1] - mask.ids_restore.shape[1]
    if pool == "cls":
        return class_token_of(masked, n), class_token_of(whole, n)
    if pool == "avg":
        return masked[:, n:].mean(1), whole[:, n:].mean(1)
    same_BKD = gather_rows(whole[:, n:], mask.ids_keep)
    every = masked.shape[1] == whole.shape[1]
    seen_BKD = gather_rows(masked[:, n:], mask.ids_keep) if every else masked[:, n:]
    if pool == "common":
        return seen_BKD.mean(1), same_BKD.mean(1)
    return seen_BKD.flatten(0, 1), same_BKD.flatten(0, 1)
