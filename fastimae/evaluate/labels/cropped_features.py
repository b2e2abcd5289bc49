"""Features of images that are computed anew in each epoch: of random crops, or tokens.

B = batch, C = channels, H, W = height, width, D = encoder width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterable

import numpy as np
import torch
from torch import Tensor
from torchvision import transforms

from fastimae.evaluate.center_batches import center_view
from fastimae.evaluate.features import features
from fastimae.evaluate.finetuning.augmented_loader import AugmentedLoader
from fastimae.evaluate.finetuning.band_crops import BandCrop
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.feature_cache import FeatureStore
from fastimae.evaluate.training.batches import LabelledBatch, StepSamples
from fastimae.loaders.images.bands import AnyImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.settings import ReadSettings


class CroppedFeatures(AugmentedLoader):
    """Batches of features, on the device: the frozen encoder's of images cropped at random.

    The crop of a sample is a function of (seed, epoch, sample). Without crops, images are read as
    those to test on.
    """

    def __init__(
        self, store: FeatureStore, images: Images, crops: Crops | None, **settings: int
    ) -> None:
        """store: has the encoder, and says how it computes features.

        settings: batch_size, seed and accum_iter of `EpochLoader`.
        """
        model = store.model
        center = functools.partial(center_pixels, model.img_size, model.in_chans, images.whole)
        super().__init__(
            images, crop_transform(crops, images.form) if crops else center, None,
            shape=(model.in_chans, *model.img_size), dtype=images.form.dtype,
            num_workers=store.workers, pin_mem=ReadSettings.pin_mem, world=store.world, **settings,
        )  # fmt: skip
        self.store = store

    def _decode_steps(self, steps: Iterable[StepSamples]) -> Generator[LabelledBatch, None, None]:
        with contextlib.closing(super()._decode_steps(steps)) as batches:
            for batch in batches:
                on_device = batch.to(self.store.world.device)
                yield dataclasses.replace(on_device, inputs=self._features(on_device.inputs))

    def _features(self, pixels: Tensor) -> Tensor:
        """Compute features, float32 [B, D], or tokens, of images, pixels [B, C, H, W]."""
        store = self.store
        parts = pixels.permute(0, 2, 3, 1).contiguous().split(store.batch_size)
        how = store.pool, store.precision, store.layer
        return torch.cat([features(store.model, part, *how) for part in parts])


def center_pixels(size: tuple[int, int], channels: int, whole: bool, image: AnyImage) -> Tensor:
    """Return the pixels [C, H, W] of `center_view`."""
    pixels_HWC = center_view(image, size, channels, whole)
    return torch.from_numpy(np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1)))


def crop_transform(crops: Crops, form: PixelForm = RGB8) -> Callable:
    """Return image -> pixels [C, H, W]: torchvision's RandomResizedCrop, bicubic, and flips.

    form: of the images.
    """
    if form != RGB8:
        return BandCrop(crops.size, crops.scale, crops.bounds, crops.hflip)
    crop = transforms.RandomResizedCrop(
        crops.size, crops.scale, crops.bounds, transforms.InterpolationMode.BICUBIC
    )
    flip = transforms.RandomHorizontalFlip(0.5 if crops.hflip else 0.0)
    return transforms.Compose([crop, flip, transforms.PILToTensor()])
