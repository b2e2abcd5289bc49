"""Features of images: an encoder's latents of all patches, pooled to one vector per image.

B = batch, N = images, H, W, C = height, width, channels, n = class tokens, L = patches,
D = encoder width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.precision import DTYPES, resolve_precision
from fastimae.engine.settings import Precision, StepSettings
from fastimae.evaluate.options.base import Kept, Pool
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
def layer_latents(
    model: MaskedAutoencoder, images: Tensor, layers: Sequence[int], precision: Precision = AUTO
) -> list[Tensor]:
    """Compute normalised latents of the class tokens and all patches, float32 [B, n + L, D] each.

    Those of a model that was fine-tuned on their mean are not normalised: its `fc_norm` comes after
    the mean.

    images: uint8 [B, H, W, C], of the model's size, on its device. layers: the blocks whose outputs
    are returned, in that order; none after them is computed. precision: of the computation, see
    `inference`. Raises ValueError for other images or blocks.
    """
    check_pixels("images", images)
    with inference(images.device, precision):
        found = model.forward_features(images, layers=layers)
    return [tokens_BND.float() for tokens_BND in found]


def latents(
    model: MaskedAutoencoder, images: Tensor, precision: Precision = AUTO, layer: int = -1
) -> Tensor:
    """Compute the latents of one layer, float32 [B, n + L, D]; arguments as `layer_latents`."""
    return layer_latents(model, images, [layer], precision)[0]


def features(
    model: MaskedAutoencoder,
    images: Tensor,
    pool: Kept | None,
    precision: Precision = AUTO,
    layer: int = -1,
) -> Tensor:
    """Compute one vector per image, float32 [B, D], or its tokens, with all patches visible.

    images, precision: see `layer_latents`. pool: "cls" is the latent of the class token, "avg" the
    mean of the patches' latents, both after the encoder's last norm; the norm of a model that was
    fine-tuned on the mean, `fc_norm`, comes after that. "tokens": as `latents`. None: see
    `resolve_pool`, which also raises ConfigError. layer: the block whose latents these are, from 0
    or from the end (-1).
    """
    pool = resolve_pool(model, pool)
    return pooled(model, latents(model, images, precision, layer), pool)


def pooled(model: MaskedAutoencoder, tokens: Tensor, pool: Kept) -> Tensor:
    """Return what `pool` keeps of tokens, [B, n + L, D]: see `features`."""
    return pool_tokens(model, tokens, "mean" if pool == "avg" else pool)


def resolve_layer(model: MaskedAutoencoder, layer: int | None, flag: str = "--layer") -> int:
    """Return the number of a block from 0; -1 is the last, as is None.

    Raises ConfigError, naming the flag, if the encoder has no such block.
    """
    depth, wanted = len(model.blocks), -1 if layer is None else layer
    if not -depth <= wanted < depth:
        raise ConfigError(
            f"{flag} {layer}: the encoder has {depth} blocks, 0 to {depth - 1} or -{depth} to -1"
        )
    return wanted % depth


def resolve_pool(model: MaskedAutoencoder, pool: Kept | None) -> Kept:
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
    layer: int = -1,
    quiet: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute features float32 [N, D] of all batches; also return their labels int64 [N].

    Both are on the CPU. layer: see `features`. quiet: show no progress.
    """
    rows, labels = [], []
    for images, label in tracked(batches, "features", "batch", quiet=quiet):
        rows.append(features(model, images.to(device), pool, precision, layer).cpu())
        labels.append(label)
    width = model.pos_embed.shape[-1]
    empty = torch.empty(0, width), torch.empty(0, dtype=torch.int64)
    return torch.cat([empty[0], *rows]), torch.cat([empty[1], *labels])
