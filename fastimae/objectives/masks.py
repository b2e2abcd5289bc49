"""Which patches an objective hides: the settings of a mask, and what it comes to on a grid."""

from __future__ import annotations

import dataclasses

from fastimae.models.mae import MASK_RATIO
from fastimae.settings import ConfigError, InnerShare, PositiveInt, Settings


@dataclasses.dataclass(kw_only=True)
class MaskSettings(Settings):
    """Of each image, how much is hidden."""

    mask_ratio: InnerShare = MASK_RATIO
    """Share of patches that is masked."""
    mask_patch_size: PositiveInt | None = None
    """Side, in pixels, of the square that is masked as one. None: the ViT's patch."""

    def mask_unit(self, patch_size: int) -> int:
        """The side of that square, in patches. Raises ConfigError where it is no whole number."""
        unit, rest = divmod(self.mask_patch_size or patch_size, patch_size)
        if rest or unit < 1:
            raise ConfigError(
                f"--mask_patch_size {self.mask_patch_size} is not a multiple of the patch size "
                f"{patch_size}"
            )
        return unit
