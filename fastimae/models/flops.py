"""Floating-point operations per image, which MFU compares with a device's peak.

Only matrix products count, with two operations per multiply-add, and as the plain maths on the
visible patches needs them. What an implementation computes beyond that (embeddings of masked
patches, recomputed activations, an unused head) does not count, and what it saves (rows of the last
decoder block that no loss uses, the first projection of mask tokens, which images share) is not
subtracted.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fastimae.models.mae import MaskedAutoencoder
from fastimae.models.settings import HeadSpace
from fastimae.models.vit import Block, Mlp


def training_flops(model: MaskedAutoencoder, visible: int, branches: int = 1) -> int:
    """Count the operations of a forward and backward pass for one image.

    The backward pass counts twice the forward pass; the patch embedding needs no gradient of its
    input. visible: unmasked patches of an image. branches: heads whose output is decoded.
    """
    patches, first = model.grid[0] * model.grid[1], model.class_tokens
    encoder = encoder_flops(model, visible, first + visible, backward=True)
    head = _linear(first + visible, *_head(model))
    decoder = _transformer(first + patches, model.decoder_blocks)
    predict = _linear(patches, model.decoder_pred)
    branch = head + decoder + predict
    return encoder + 3 * branches * branch


def latent_flops(model: MaskedAutoencoder, visible: int, space: HeadSpace) -> int:
    """Count the operations of a frozen model with one head, up to its latent in `space`'s width."""
    tokens = model.class_tokens + visible
    head = _linear(tokens, *_head(model)) if space == "decoder" else 0
    return encoder_flops(model, visible, tokens) + head


def encoder_flops(
    model: MaskedAutoencoder, visible: int, tokens: int, *, backward: bool = False
) -> int:
    """Count the operations of an encoder. tokens: that its blocks compute, mask tokens included.

    backward: count the backward pass, too.
    """
    embed, blocks = _embed(model, visible), _transformer(tokens, model.blocks)
    return 2 * embed + 3 * blocks if backward else embed + blocks


def mlp_flops(tokens: int, mlp: Mlp, *, backward: bool = False) -> int:
    """Count the operations of an MLP, such as a head behind the encoder. backward: see above."""
    return (3 if backward else 1) * _linear(tokens, mlp.fc1, mlp.fc2)


def _embed(model: MaskedAutoencoder, visible: int) -> int:
    return 2 * visible * model.patch_embed.proj.weight.numel()


def _head(model: MaskedAutoencoder) -> list[nn.Linear]:
    """Return the layers of one head, from the encoder's output to the decoder's input."""
    layers = [model.decoder_embed1] if model.heads == 2 else []
    if model.heads == 1 or model.head_space == "encoder":
        layers.append(model.decoder_embed)
    return layers


def _transformer(tokens: int, blocks: Iterable[Block]) -> int:
    """Count projections and MLPs, and for each block two products of all pairs of tokens."""
    total = 0
    for block in blocks:
        layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        total += _linear(tokens, *layers) + 4 * tokens**2 * block.attn.proj.in_features
    return total


def _linear(tokens: int, *layers: nn.Linear) -> int:
    return 2 * tokens * sum(layer.weight.numel() for layer in layers)
