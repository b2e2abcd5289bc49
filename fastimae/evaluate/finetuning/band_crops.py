"""Random crops and flips of images that Pillow cannot hold: of many channels, or of 16 bits.

C, H, W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import Compose, RandomResizedCrop

from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.kernels.reference import normalise
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.crops import RATIO, relative_to
from fastimae.loaders.images.pixel_form import PixelForm
from fastimae.settings import ConfigError


class BandCrop:
    """Crops as torchvision's RandomResizedCrop does, resizes by bicubic, and flips."""

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] | None,
        ratio: tuple[float, float],
        hflip: bool,
    ) -> None:
        """size: (height, width). scale: smallest and largest share of an image's area; None: the
        whole image is resized. ratio: smallest and largest width / height. hflip: flip half."""
        self.size, self.scale, self.ratio, self.hflip = size, scale, ratio, hflip

    def __call__(self, image: BandImage) -> Tensor:
        """Return pixels of the image's dtype [C, H, W], drawn from torch's generator."""
        if self.scale:
            shape = torch.empty(1).expand(1, image.height, image.width)
            top, left, height, width = RandomResizedCrop.get_params(shape, self.scale, self.ratio)
            image = image.crop((left, top, left + width, top + height))
        pixels_HWC = image.resize(self.size[::-1]).pixels_HWC
        if self.hflip and torch.rand(1) < 0.5:
            pixels_HWC = pixels_HWC[:, ::-1]
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels_HWC, -1, 0)))


class _Normalise:
    """Normalises pixels [C, H, W]: float [C, H, W]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, pixels_CHW: Tensor) -> Tensor:
        return normalise(pixels_CHW.permute(1, 2, 0), self.mean, self.std).permute(2, 0, 1)


def band_transform(
    options: TuningOptions,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    form: PixelForm,
) -> Callable:
    """Return BandImage -> float [C, H, W]: crop, flip, normalisation, random erasing.

    The arguments are those of `training_transform`. form: of the images. Raises ConfigError for
    what timm can do to RGB images only.
    """
    for name, used in (("aa", options.aa != "none"), ("color_jitter", options.color_jitter)):
        if used:
            raise ConfigError(
                f"--{name} changes RGB images of 8 bits, and these have {form} pixels: "
                + ("add --aa none" if name == "aa" else "leave it out")
            )
    scale = None if options.crop == "none" else (options.min_crop, 1.0)
    ratio = relative_to(size, options.crop_ratio or RATIO)
    erase = RandomErasing(
        options.reprob, mode=options.remode, max_count=options.recount, device="cpu"
    )
    crop = BandCrop(size, scale, ratio, options.hflip)
    return Compose([crop, _Normalise(mean, std), erase])
