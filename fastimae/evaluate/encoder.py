"""Features: what an encoder makes of whole images.

B = batch, N = images, H, W, C = height, width, channels, L = patches, D = encoder width.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from fastimae.engine.precision import DTYPES, Precision, resolve_precision
from fastimae.engine.prepare import StepSettings
from fastimae.interop import load_model
from fastimae.kernels import Mask
from fastimae.kernels.checks import check_bytes
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, Seeded

Pool = Literal["cls", "avg"]
AUTO = StepSettings.precision


def load_encoder(
    path: Path,
    device: torch.device,
    *,
    random_init: bool = False,
    seed: int = Seeded.seed,
    **of_model: Any,
) -> MaskedAutoencoder:
    """The model of a checkpoint in eval mode. Its decoder is of use only where the file has one.

    of_model: what the user says of the model, as `load_model` takes it. random_init: fresh weights
    of that architecture, a function of `seed`. Raises CheckpointError.
    """
    model = load_model(path, encoder_only=True, **of_model)
    if random_init:
        torch.manual_seed(seed)
        model.reset_parameters()
    return model.to(device).eval().requires_grad_(False)


def inference(device: torch.device, precision: Precision = AUTO) -> torch.autocast:
    """Context for a forward in a number format; auto is bf16 where that pays, else fp32."""
    precision = resolve_precision(precision, device)
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


@torch.no_grad()
def latents(model: MaskedAutoencoder, images: Tensor, precision: Precision = AUTO) -> Tensor:
    """Normalised latents of the class token and of all patches, float32 [B, 1 + L, D].

    Those of a model that was fine-tuned on their mean are not normalised: its `fc_norm` follows.

    images: uint8 [B, H, W, C], of the model's size, on its device. precision: what it is
    computed in; auto is bf16 where that pays. Raises ValueError for other images.
    """
    mask = all_visible(model, images)
    with inference(images.device, precision):
        (patches,) = model.visible_patches(images, mask)
        return model.encode(patches, mask.ids_keep).float()


def all_visible(model: MaskedAutoencoder, images: Tensor) -> Mask:
    """The mask that hides nothing of the images, uint8. Raises ValueError for others."""
    check_bytes("images", images)
    shape = len(images), model.grid[0] * model.grid[1]
    return Mask.from_bool(torch.zeros(shape, dtype=torch.bool, device=images.device))


def features(
    model: MaskedAutoencoder,
    images: Tensor,
    pool: Pool | None,
    precision: Precision = AUTO,
) -> Tensor:
    """One vector an image, float32 [B, D], from all patches unmasked.

    images, precision: see `latents`. pool: "cls" is the latent of the class token, "avg" the mean
    of the patches' latents, both after the encoder's last norm; the norm of a model that was
    fine-tuned on the mean, `fc_norm`, comes after that. None: `check_pool` says. Raises ConfigError
    where the model has no norm for the class token.
    """
    pool = check_pool(model, pool)
    tokens = latents(model, images, precision)
    pooled = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(1)
    return model.fc_norm(pooled) if hasattr(model, "fc_norm") else pooled


def check_pool(model: MaskedAutoencoder, pool: Pool | None) -> Pool:
    """The pool to use: the given one, else MAE's class token, or the mean that a fine-tuned model
    classifies. Raises ConfigError for the class token of a model that has no norm for it."""
    only_mean = isinstance(model.norm, torch.nn.Identity)
    if pool == "cls" and only_mean:
        raise ConfigError(
            "--pool cls: this model was fine-tuned on the mean of its patches, and has no norm for "
            "its class token: use --pool avg"
        )
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
    """Features float32 [N, D] and labels int64 [N] of all batches, on the CPU.

    quiet: without a progress bar.
    """
    rows, labels = [], []
    for images, label in tqdm(batches, desc="features", unit="batch", disable=quiet):
        rows.append(features(model, images.to(device), pool, precision).cpu())
        labels.append(label)
    width = model.pos_embed.shape[-1]
    empty = torch.empty(0, width), torch.empty(0, dtype=torch.int64)
    return torch.cat([empty[0], *rows]), torch.cat([empty[1], *labels])
