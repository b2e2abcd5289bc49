"""The second view of an image in siamese objectives: which patches it shows.

B = batch, M = patches that the first view hides.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fastimae.kernels import Mask
from fastimae.kernels.random_masking import philox
from fastimae.models import MaskedAutoencoder
from fastimae.objectives.masks import draw_mask, patches_seen
from fastimae.objectives.settings import SecondViewKind

SECOND_VIEW_STREAM = 7
"""Philox stream of the keys of second views: see `fastimae.loaders.order.philox.DrawStream`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecondView:
    """How second views are drawn: see `SecondViewSettings`."""

    kind: SecondViewKind
    mask_ratio: float
    """Share of patches that are masked in an independent view."""
    mask_unit: int = 1
    """Side, in patches, of the squares that are masked as a whole."""

    def patches_seen(self, student: MaskedAutoencoder, first_seen: int) -> int:
        """Return how many patches of an image it shows. first_seen: those of the first view.

        Raises ValueError if no such mask can be drawn.
        """
        seen = patches_seen(student, self._ratio, self.mask_unit)
        return seen - first_seen if self.kind == "complement" else seen

    def draw_mask(self, student: MaskedAutoencoder, key: Tensor, first: Mask) -> Mask:
        """Draw the mask of each sample, a function of its key, int64 [B], and its first mask."""
        if self.kind == "complement":
            return first.complement()
        return draw_mask(student, second_key(key), self._ratio, self.mask_unit)

    def shown(self, first: Mask, second: Mask) -> Tensor | None:
        """Return which patches that the first mask hides the second one shows: bool [B, M].

        None: all of them, whatever was drawn.
        """
        if self.kind != "independent":
            return None
        return second.mask.gather(1, first.ids_masked.long()) == 0

    @property
    def _ratio(self) -> float:
        return self.mask_ratio if self.kind == "independent" else 0.0


def second_key(key: Tensor) -> Tensor:
    """Derive the key of a sample's second view from its own, int64 [B]: two Philox words of it.

    A mask always is stream 0 of a key, so that another mask needs another key.
    """
    high, low, *_ = philox(key, torch.zeros_like(key), SECOND_VIEW_STREAM)
    return high << 32 | low
