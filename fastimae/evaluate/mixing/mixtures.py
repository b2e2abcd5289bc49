"""Mixtures of evaluation images, under masks that are the same for every model.

B = images, H, W, C = height, width, channels, K = visible patches, n = class tokens, E = width of a
head's output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import Images, random_indices
from fastimae.kernels import Mask, random_masking
from fastimae.kernels.checks import check_pixels
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.models.forward_features import all_visible
from fastimae.models.settings import HeadSpace
from fastimae.settings import ConfigError, Seeded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """A batch of images, each of which is mixed with another image of the batch."""

    images: Tensor
    """uint8 [B, H, W, C]"""
    partner: Tensor
    """int64 [B], a permutation without fixed points."""
    labels: Tensor
    """int64 [B]"""
    key: Tensor
    """int64 [B], the keys that masks are drawn from."""

    def mask(self, model: MaskedAutoencoder, mask_ratio: float, unit: int) -> Mask:
        """Return the mask of each mixture; with ratio 0 every patch is visible.

        unit: side, in patches, of the squares that are masked as a whole: see `mask_unit_of`.
        """
        if mask_ratio == 0:
            return all_visible(model, self.images)
        return random_masking(self.key, model.grid, mask_ratio, unit)


class PairBatches:
    """Batches of `Pairs`, drawn without replacement from up to `samples` of the images.

    The images, their partners and the masks depend on the seed and the batch size alone. A batch of
    one image, which has no partner, is left out if images are mixed, with a warning.
    """

    def __init__(
        self,
        images: Images,
        model: MaskedAutoencoder,
        *,
        samples: int | None,
        batch_size: int,
        workers: int,
        seed: int = Seeded.seed,
        mixed: bool = True,
    ) -> None:
        """model: gives the size and the device of the batches. samples: None for all images.

        mixed: whether images will be mixed; if not, the only image of a batch is its own partner.
        """
        self.images, self.device = images, next(model.parameters()).device
        self.least = 2 if mixed else 1
        self.rng = np.random.default_rng(seed)
        chosen = random_indices(images, samples, self.rng)
        if mixed and len(chosen) % batch_size == 1:
            log.warning(
                "%s: one of %d images is left out, as --batch_size %d leaves it without a partner",
                images.source, len(chosen), batch_size,
            )  # fmt: skip
        self.batches = CenterBatches(
            images, model.img_size, batch_size=batch_size, workers=workers,
            channels=model.in_chans, indices=chosen,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Pairs]:
        """Yield each batch once. Raises ConfigError if too few images can be read."""
        number = 0
        for pixels, labels in self.batches:
            key = torch.from_numpy(self.rng.integers(2**62, size=len(pixels)))
            if len(pixels) >= self.least:
                number += 1
                yield Pairs(
                    images=pixels.to(self.device),
                    partner=torch.arange(len(pixels), device=self.device).roll(1),
                    labels=labels,
                    key=key.to(self.device),
                )
        if not number:
            few = "fewer than two images to mix" if self.least > 1 else "no image that can be read"
            raise ConfigError(f"{self.images.source} has {few}")


def check_pairs(
    images: Images, batch_size: int, samples: int | None, flag: str = "--samples"
) -> None:
    """Raise ConfigError if there are too few images for a pair. flag: that of `samples`."""
    for name, number in (("--batch_size", batch_size), (flag, samples)):
        if number is not None and number < 2:
            raise ConfigError(f"{name} must be 2 or more: images are mixed within a batch")
    if len(images) < 2:
        raise ConfigError(f"{images.source} has fewer than two images to mix")


@torch.no_grad()
def mixture_latents(
    model: MaskedAutoencoder,
    batch: Pairs,
    mask: Mask,
    ratio: float,
    space: HeadSpace | None = None,
) -> Tensor:
    """Compute each head's latents of the mixtures, float32 [heads, B, n + K, E].

    Class tokens come first. ratio: weight of the image itself; its partner has 1 - ratio. With
    two heads, head 0 is for the image of smaller weight. space: see `latents_in`; None: see
    `own_space`.
    """
    mixed = mixed_patches(model, batch, mask, ratio)
    space = space or own_space(model)
    return latents_in(model, model.encode(mixed, mask.ids_keep), space).float()


def mixed_patches(model: MaskedAutoencoder, batch: Pairs, mask: Mask, ratio: float) -> Tensor:
    """Return the visible patches of the mixtures, normalised, [B, K, P*P*C]."""
    check_pixels("images", batch.images)
    alpha = torch.full((len(batch.images),), ratio, device=batch.images.device)
    return model.visible_patches(
        batch.images, mask, partner=batch.partner, alpha=alpha, clean=False
    )[0]


@torch.no_grad()
def clean_latents(
    model: MaskedAutoencoder, batch: Pairs, mask: Mask, space: HeadSpace = "decoder"
) -> Tensor:
    """Compute a MAE's latents of each image alone, float32 [B, n + K, E]; space: `latents_in`."""
    check_pixels("images", batch.images)
    (patches,) = model.visible_patches(batch.images, mask)
    return latents_in(model, model.encode(patches, mask.ids_keep), space)[0].float()


def own_space(model: MaskedAutoencoder) -> HeadSpace:
    """Return the space of a model's heads; with weighted feature maps, the encoder's.

    The decoder of the latter has no latent but sums of all blocks' outputs.
    """
    return "encoder" if model.weighted_feature_maps else model.head_space


def latents_in(model: MaskedAutoencoder, latent: Tensor, space: HeadSpace) -> Tensor:
    """Map the encoder's output [B, n + K, D] to each head's latents, [heads, B, 1 + K, D or E].

    space: "encoder", of the encoder's width D: for one head the encoder's output itself; "decoder",
    behind `decoder_embed`, of the decoder's width E. Raises ValueError for two heads that map to
    the decoder's width at once, which have nothing in the encoder's.
    """
    if space == model.head_space:
        return model.split(latent)
    if space == "decoder":
        return model.decoder_embed(model.split(latent))
    if model.heads == 1:
        return latent[None]
    raise ValueError("heads in decoder space have no latents in encoder space")
