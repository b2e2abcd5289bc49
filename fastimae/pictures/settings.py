"""The flag of everything that draws images."""

from __future__ import annotations

import dataclasses

from fastimae.settings import Count, Expert, Free, Settings


@dataclasses.dataclass(kw_only=True)
class PictureSettings(Settings):
    """What pictures show of images with other channels than red, green and blue."""

    show_channels: Expert[Free[tuple[Count, ...] | None]] = None
    """Channels to draw, from 0: three as red, green and blue, or one in gray. None: the first."""
