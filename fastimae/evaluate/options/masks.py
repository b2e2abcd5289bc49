"""The flag --mask_patch_size, for tasks that mask images."""

from __future__ import annotations

import dataclasses

from fastimae.settings import PositiveInt, Settings


@dataclasses.dataclass(kw_only=True)
class MaskUnitOptions(Settings):
    """The unit of the masks that models are shown."""

    mask_patch_size: PositiveInt | None = None
    """Side, in pixels, of the squares that are masked as a whole. None: as in training."""
