"""Features of images: an encoder's latents of all patches, pooled to one vector per image.

B = batch, N = images, H, W, C = height, width, channels, L = patches, D = encoder width.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.precision import DTYPES, resolve_precision
from fastimae.engine.settings import Precision, StepSettings
from fastimae.evaluate.options.base import Pool
from fastimae.interop import load_model
from fastimae.kernels.checks import check_pixels
from fastimae.models import MaskedAutoencoder
from fastimae.models.forward_features import NO_TOKEN_NORM, lacks_token_norm, pool_tokens
from fastimae.progress import tracked
from fastimae.settings import ConfigError, Seeded

AUTO = StepSettings.precision


def load_encoder(
    path: Path,
    device: torch.device,
    *,
    random_init: bool = False,
    seed: int = Seeded.seed,
    **of_model: Any,
) -> MaskedAutoencoder:
    """Load the model of a checkpoint, frozen; its decoder is fresh if the file has none.

    of_model: the user's flags for the model, as `load_model` takes them. random_init: fresh weights
    of that architecture, a function of `seed`. Raises CheckpointError.
    """
    model = load_model(path, encoder_only=True, **of_model)
    if random_init:
        torch.manual_seed(seed)
        model.reset_parameters()
        model.adapted = {}
    return model.to(device).eval().requires_grad_(False)


def inference(device: torch.device, precision: Precision = AUTO) -> torch.autocast:
    """Return the autocast context of a forward pass; auto: bf16 where that is faster, else fp32."""
    precision = resolve_precision(precision, device)
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


@torch.no_grad()
def latents(model: MaskedAutoencoder, images: Tensor, precision: Precision = AUTO) -> Tensor:
    """Compute normalised latents of the class token and all patches, float32 [B, 1 + L, D].

    Those of a model that was fine-tuned on their mean are not normalised: its `fc_norm` comes after
    the mean.

    images: uint8 [B, H, W, C], of the model's size, on its device. precision: of the computation,
    see `inference`. Raises ValueError for other images.
    """
    check_pixels("images", images)
    with inference(images.device, precision):
        return model.forward_features(images).float()


def features(
    model: MaskedAutoencoder,
    images: Tensor,
    pool: Pool | None,
    precision: Precision = AUTO,
) -> Tensor:
    """Compute one vector per image, float32 [B, D], with all patches visible.

    images, precision: see `latents`. pool: "cls" is the latent of the class token, "avg" the mean
    of the patches' latents, both after the encoder's last norm; the norm of a model that was
    fine-tuned on the mean, `fc_norm`, comes after that. None: see `resolve_pool`, which also raises
    ConfigError.
    """
    pool = resolve_pool(model, pool)
    tokens = latents(model, images, precision)
    return pool_tokens(model, tokens, "cls" if pool == "cls" else "mean")


def resolve_pool(model: MaskedAutoencoder, pool: Pool | None) -> Pool:
    """Return the given pool, else MAE's "cls", or "avg" for a model fine-tuned on the mean.

    Raises ConfigError for the class token of a model that has no norm for it.
    """
    only_mean = lacks_token_norm(model)
    if pool == "cls" and only_mean:
        raise ConfigError(f"--pool cls: {NO_TOKEN_NORM}: use --pool avg")
    return pool or ("avg" if only_mean else "cls")


def extract(
    model: MaskedAutoencoder,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
    pool: Pool,
    *,
    precision: Precision = AUTO,
    quiet: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute features float32 [N, D] of all batches; also return their labels int64 [N].

    Both are on the CPU. quiet: show no progress.
    """
    rows, labels = [], []
    for images, label in tracked(batches, "features", "batch", quiet=quiet):
        rows.append(features(model, images.to(device), pool, precision).cpu())
        labels.append(label)
    width = model.pos_embed.shape[-1]
    empty = torch.empty(0, width), torch.empty(0, dtype=torch.int64)
    return torch.cat([empty[0], *rows]), torch.cat([empty[1], *labels])
