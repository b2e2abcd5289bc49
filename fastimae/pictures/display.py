"""How images are shown in pictures: which of their channels, and 16 bits as 8.

B = batch, H, W, C = image rows, columns, channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastimae.kernels.checks import FULL_RANGE, check_pixels
from fastimae.kernels.reference import as_bits
from fastimae.settings import RGB, ConfigError

MASKED_GRAY = 128
"""What is masked, in the 8 bits of a picture."""
SHOWN_DEVIATIONS = 2
"""Ours: black and white of 16 bits are so many standard deviations from the mean."""


class Display:
    """Turns images into pictures of three channels, or of one in gray, of 8 bits each.

    8 bits are shown as they are. Images of 16 bits often use a small, dark part of their range, so
    theirs are stretched: see `shown_range`, which is the same for images and what is made of them.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        show_channels: Sequence[int] | None = None,
    ) -> None:
        """mean, std: of each channel, in 0..1. show_channels: as in `PictureSettings`.

        Raises ConfigError for other than one or three channels, and for one that there is not.
        """
        self.mean, self.std, count = mean, std, len(mean)
        first = range(RGB if count >= RGB else 1)
        self.channels = tuple(first if show_channels is None else show_channels)
        self.plain = self.channels == tuple(range(count))
        flag = f"--show_channels {' '.join(map(str, self.channels))}"
        if len(self.channels) not in (1, RGB):
            raise ConfigError(f"{flag}: pictures have three channels, or one")
        if not set(self.channels) <= set(range(count)):
            raise ConfigError(f"{flag}: images have only the channels 0 to {count - 1}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return pictures, uint8 [..., H, W, 1 or 3], of images, uint8 or uint16 [..., H, W, C]."""
        check_pixels("images", images)
        shown, which = images, list(self.channels)
        if not self.plain:
            shown = as_bits(images)[..., which].view(images.dtype)
        if images.dtype == torch.uint8:
            return shown
        low_C, high_C = shown_range(self.mean, self.std, images.device)[:, which]
        share = (shown.float() / FULL_RANGE[images.dtype] - low_C) / (high_C - low_C)
        return (255 * share).round().clamp(0, 255).to(torch.uint8)

    def note(self, dtype: torch.dtype) -> str:
        """Return what a caption says of pictures of images of this dtype; "" of ordinary ones."""
        which, notes = ", ".join(map(str, self.channels)), []
        if not self.plain and len(self.channels) == 1:
            notes.append(f"channel {which} of {len(self.mean)}, in gray")
        elif not self.plain:
            notes.append(f"channels {which} of {len(self.mean)}, as red, green, blue")
        if dtype != torch.uint8:
            deviations = f"{SHOWN_DEVIATIONS} standard deviations (--std) from the mean (--mean)"
            notes.append(f"16 bits: black and white are {deviations} of each channel")
        line = "; ".join(notes)
        return line[:1].upper() + line[1:]


def shown_range(mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """Return black and white of each channel of 16 bits, in 0..1 of its range: fp32 [2, C]."""
    mean_C, std_C = torch.tensor([mean, std], device=device)
    reach_2C = SHOWN_DEVIATIONS * torch.stack([-std_C, std_C])
    return (mean_C.clamp(0, 1) + reach_2C).clamp(0, 1)


def masked_level(
    dtype: torch.dtype, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Tensor:
    """Return the value of each channel, `dtype` [C], that pictures show as `MASKED_GRAY`."""
    if dtype == torch.uint8:
        return torch.full((len(mean),), MASKED_GRAY, dtype=dtype, device=device)
    low_C, high_C = shown_range(mean, std, device)
    share_C = torch.lerp(low_C, high_C, MASKED_GRAY / 255)
    return (share_C * FULL_RANGE[dtype]).round().to(dtype)
