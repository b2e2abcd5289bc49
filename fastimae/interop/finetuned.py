"""Fine-tuned checkpoints: an encoder with a classifier, and the norm that it was trained with.

A classifier of the class token is `head`, after the encoder's `norm`. A classifier of the mean of
the patches has `fc_norm` after the mean instead of `norm` before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fastimae.interop.conversion import CLASSIFIER
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.vit import LAYER_NORM_EPS

HEAD, FC_NORM = CLASSIFIER


def without_classifier(checkpoint: Checkpoint) -> Checkpoint:
    """Drop `head`, and log that; `fc_norm` stays, as features pass through it."""
    if what := describe(checkpoint.weights):
        log.info("%s: %s; its encoder is used, its classifier dropped", checkpoint.path, what)
    return checkpoint.without(HEAD)


def describe(weights: Mapping[str, Tensor]) -> str:
    """Describe what a fine-tuned file holds; "" if it has neither a head nor its norm."""
    if not any(name.startswith(CLASSIFIER) for name in weights):
        return ""
    if f"{HEAD}0.weight" in weights:
        return "an encoder with a projector"
    if is_probe(weights):
        return "an encoder with a linear probe after a BatchNorm"
    if not classifies_mean(weights):
        return "an encoder with a classifier of its class token"
    norm = "beside" if "norm.weight" in weights else "instead of"
    return f"an encoder with a classifier of the mean of its patches, fc_norm {norm} norm"


def classifies_mean(names: Mapping[str, object]) -> bool:
    """Return whether a classifier takes the mean of the patches."""
    return f"{FC_NORM}weight" in names


def is_probe(names: Mapping[str, object]) -> bool:
    """Return whether the head is that of MAE's linear probing: a BatchNorm, then a Linear.

    MoCo v3's projector begins with a Linear.
    """
    return f"{HEAD}1.weight" in names and f"{HEAD}0.weight" not in names


def add_fc_norm(model: MaskedAutoencoder, *, keep_norm: bool) -> None:
    """Add a fresh `fc_norm` for pooled latents to the model, instead of `norm` unless kept."""
    model.fc_norm = nn.LayerNorm(model.pos_embed.shape[-1], eps=LAYER_NORM_EPS)
    if not keep_norm:
        model.norm = nn.Identity()
