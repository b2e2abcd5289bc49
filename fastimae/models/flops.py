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

from fastimae.models.cross_decoder import CrossBlock
from fastimae.models.mae import MaskedAutoencoder
from fastimae.models.settings import HeadSpace
from fastimae.models.vit import Block, Mlp


def training_flops(
    model: MaskedAutoencoder, visible: int, branches: int = 1, predicted: int | None = None
) -> int:
    """Count the operations of a forward and backward pass for one image.

    The backward pass counts twice the forward pass; the patch embedding needs no gradient of its
    input. visible: unmasked patches of an image. branches: heads whose output is decoded.
    predicted: patches that a cross decoder predicts; None: all that are masked.
    """
    encoder = encoder_flops(model, visible, model.class_tokens + visible, backward=True)
    if predicted is None:
        predicted = model.patches - visible
    return encoder + 3 * branches * decoder_flops(model, visible, predicted)


def decoder_flops(model: MaskedAutoencoder, visible: int, predicted: int) -> int:
    """Count the operations of a forward pass from the encoder's output on, for one head.

    predicted: patches that a cross decoder predicts; in MAE's, all tokens need each other.
    """
    memory, head = model.class_tokens + visible, _head(model)
    if model.decoder_attention == "self":
        decoder = _transformer(model.class_tokens + model.patches, model.decoder_blocks)
        return _linear(memory, *head) + decoder + _linear(model.patches, model.decoder_pred)
    decoder = sum(_cross(predicted, memory, block) for block in model.decoder_blocks)
    decoder += _linear(predicted, model.decoder_pred)
    if not model.weighted_feature_maps:
        return decoder + _linear(memory, *head)
    sums = 2 * memory * model.decoder_map_weights.numel() * model.pos_embed.shape[-1]
    return decoder + sums + len(model.decoder_blocks) * _linear(memory, *head)


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


def _cross(rows: int, memory: int, block: CrossBlock) -> int:
    """Count a block's projections and MLP, and two products of all rows with all of the memory."""
    attn, mlp = block.attn, block.mlp
    of_rows = _linear(rows, attn.q, attn.proj, mlp.fc1, mlp.fc2)
    return of_rows + _linear(memory, attn.kv) + 4 * rows * memory * attn.proj.in_features


def _linear(tokens: int, *layers: nn.Linear) -> int:
    return 2 * tokens * sum(layer.weight.numel() for layer in layers)
