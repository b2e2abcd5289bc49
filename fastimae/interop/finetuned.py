"""Fine-tuned files: an encoder with a classifier, and the norm that it was trained with.

A classifier of the class token is `head`, behind the encoder's `norm`. A classifier of the mean of
the patches has `fc_norm` after the mean, in place of `norm` before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fastimae.interop.conversion import CLASSIFIER
from fastimae.interop.open import Checkpoint
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.vit import LAYER_NORM_EPS

HEAD, FC_NORM = CLASSIFIER


def without_classifier(checkpoint: Checkpoint) -> Checkpoint:
    """Without `head`, which a line says; `fc_norm` stays: features pass through it."""
    if what := describe(checkpoint.weights):
        log.info("%s: %s; the encoder is taken, the classifier left out", checkpoint.path, what)
    return checkpoint.without(HEAD)


def describe(weights: Mapping[str, Tensor]) -> str:
    """What a fine-tuned file holds, in words; "" for one without a head, and the norm of one."""
    if not any(name.startswith(CLASSIFIER) for name in weights):
        return ""
    if is_probe(weights):
        return "an encoder with a linear probe behind a BatchNorm"
    if not pools(weights):
        return "an encoder with a classifier of its class token"
    norm = "beside" if "norm.weight" in weights else "in place of"
    return f"an encoder with a classifier of the mean of its patches, fc_norm {norm} norm"


def pools(names: Mapping[str, object]) -> bool:
    """Whether the mean of the patches was classified."""
    return f"{FC_NORM}weight" in names


def is_probe(names: Mapping[str, object]) -> bool:
    """Whether the head is that of MAE's linear probing: a BatchNorm, and a Linear behind it."""
    return f"{HEAD}1.weight" in names


def put_fc_norm(model: MaskedAutoencoder, *, keep_norm: bool) -> None:
    """Give the model a fresh `fc_norm`, for pooled latents; in place of `norm` unless kept."""
    model.fc_norm = nn.LayerNorm(model.pos_embed.shape[-1], eps=LAYER_NORM_EPS)
    if not keep_norm:
        model.norm = nn.Identity()
