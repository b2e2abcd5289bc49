"""How many operations an image takes: what a device's peak is compared with, for MFU.

Matrix products only, two operations for a multiplication with addition, of the plain maths on the
visible patches. What an implementation does beside that (embedding masked patches, computing
activations again, a head that nothing is asked of) earns it nothing, and what it leaves out (rows
of the last decoder block that no loss sees) is counted all the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fastimae.models.mae import HeadSpace, MaskedAutoencoder
from fastimae.models.vit import Block


def training_flops(model: MaskedAutoencoder, visible: int, branches: int = 1) -> int:
    """Operations of forward and backward pass, 1 : 2; the patch embedding has no gradient of its
    input.

    visible: patches of an image that are not masked. branches: heads whose output is decoded.
    """
    patches = model.grid[0] * model.grid[1]
    encoder = _transformer(1 + visible, model.blocks)
    head = _linear(1 + visible, *_head(model))
    decoder = _transformer(1 + patches, model.decoder_blocks)
    predict = _linear(patches, model.decoder_pred)
    branch = head + decoder + predict
    return 2 * _embed(model, visible) + 3 * (encoder + branches * branch)


def latent_flops(model: MaskedAutoencoder, visible: int, space: HeadSpace) -> int:
    """Operations of a frozen model with one head, up to its latent in the encoder's or the
    decoder's width."""
    head = _linear(1 + visible, *_head(model)) if space == "decoder" else 0
    return _embed(model, visible) + _transformer(1 + visible, model.blocks) + head


def _embed(model: MaskedAutoencoder, visible: int) -> int:
    return 2 * visible * model.patch_embed.proj.weight.numel()


def _head(model: MaskedAutoencoder) -> list[nn.Linear]:
    """From the encoder's output to the decoder's input, by one of the heads."""
    layers = [model.decoder_embed1] if model.heads == 2 else []
    if model.heads == 1 or model.head_space == "encoder":
        layers.append(model.decoder_embed)
    return layers


def _transformer(tokens: int, blocks: Iterable[Block]) -> int:
    """Projections and MLPs, and in each block two products of every token with every other."""
    total = 0
    for block in blocks:
        layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        total += _linear(tokens, *layers) + 4 * tokens**2 * block.attn.proj.in_features
    return total


def _linear(tokens: int, *layers: nn.Linear) -> int:
    return 2 * tokens * sum(layer.weight.numel() for layer in layers)
