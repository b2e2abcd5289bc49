"""Mixtures of evaluation images under masks that are the same for every model that is measured.

B = images, L = patches, K = visible patches, E = width of a head's output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fastimae.evaluate.encoder import all_visible
from fastimae.evaluate.images import Images, center_batches
from fastimae.kernels import Mask, random_masking
from fastimae.kernels.checks import check_bytes
from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, Seeded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """A batch of images, each of which is mixed with another image of the batch."""

    images: Tensor
    """uint8 [B, H, W, C]"""
    partner: Tensor
    """int64 [B], a permutation without fixed points where B > 1."""
    labels: Tensor
    """int64 [B]"""
    key: Tensor
    """int64 [B], what masks are drawn from."""

    def mask(self, model: MaskedAutoencoder, mask_ratio: float) -> Mask:
        """The mask of each mixture; with ratio 0 every patch is visible."""
        if mask_ratio == 0:
            return all_visible(model, self.images)
        return random_masking(self.key, model.grid, mask_ratio)


def check_pairs(images: Images, batch_size: int, samples: int, flag: str = "--samples") -> None:
    """Raise ConfigError where `pairs` would find none. flag: what says how many samples."""
    for name, number in (("--batch_size", batch_size), (flag, samples)):
        if number < 2:
            raise ConfigError(f"{name} must be 2 or more: images are mixed within a batch")
    if len(images) < 2:
        raise ConfigError(f"{images.source} has fewer than two images to mix")


def check_masks(model: MaskedAutoencoder, ratios: Sequence[float], flag: str) -> None:
    """Raise ConfigError for a ratio that masks no patch of a model, or all; 0 is no mask at all."""
    key = torch.zeros(1, dtype=torch.int64)
    for ratio in filter(None, ratios):
        try:
            random_masking(key, model.grid, ratio, impl="torch")
        except ValueError:
            down, across = model.grid
            raise ConfigError(
                f"{flag} {ratio:g} leaves all or none of the {down} x {across} patches visible"
            ) from None


def pairs(
    images: Images,
    model: MaskedAutoencoder,
    *,
    samples: int | None,
    batch_size: int,
    workers: int,
    device: torch.device,
    seed: int = Seeded.seed,
) -> Iterator[Pairs]:
    """Pairs drawn without replacement from up to `samples` of the images, on the device.

    Which images, who is mixed with whom and the masks follow from the seed (and the batch size)
    alone. A last batch of one image, which has no partner, is left out.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))[:samples]
    batches = center_batches(
        images, model.img_size, batch_size=batch_size, workers=workers,
        channels=model.in_chans, indices=order,
    )  # fmt: skip
    for pixels, labels in batches:
        key = torch.from_numpy(rng.integers(2**62, size=len(pixels)))
        if len(pixels) > 1:
            yield Pairs(
                images=pixels.to(device),
                partner=torch.arange(len(pixels), device=device).roll(1),
                labels=labels,
                key=key.to(device),
            )


@torch.no_grad()
def mixture_latents(model: MaskedAutoencoder, batch: Pairs, mask: Mask, ratio: float) -> Tensor:
    """What each head makes of the mixtures, float32 [heads, B, 1 + K, E], class token first.

    ratio: weight of the image itself; its partner has 1 - ratio. With two heads, head 0 is for
    the image of smaller weight.
    """
    check_bytes("images", batch.images)
    alpha = torch.full((len(batch.images),), ratio, device=batch.images.device)
    mixed = model.visible_patches(
        batch.images, mask, partner=batch.partner, alpha=alpha, clean=False
    )[0]
    return model.split(model.encode(mixed, mask.ids_keep)).float()


@torch.no_grad()
def clean_latents(
    model: MaskedAutoencoder, batch: Pairs, mask: Mask, space: str = "decoder"
) -> Tensor:
    """What a MAE makes of each image alone, float32 [B, 1 + K, E]; space: as `head_space`."""
    check_bytes("images", batch.images)
    (patches,) = model.visible_patches(batch.images, mask)
    latent = model.encode(patches, mask.ids_keep)
    return (latent if space == "encoder" else model.split(latent)[0]).float()
