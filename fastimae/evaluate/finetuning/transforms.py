"""timm's augmentation, by the options of fine-tuning.

C, H, W = channels, height, width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image, ImageOps
from timm.data import Mixup, create_transform
from timm.data.auto_augment import AugmentOp
from torchvision.transforms import InterpolationMode, Resize

from fastimae.evaluate.finetuning.band_crops import band_transform
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.loaders.images.crops import RATIO, relative_to
from fastimae.loaders.images.pixel_form import RGB8, PixelForm


def training_transform(
    options: TuningOptions,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    form: PixelForm = RGB8,
) -> Callable:
    """Return image -> float [C, H, W]: crop, flip, policy, normalisation, random erasing.

    size: (height, width). mean, std: of each channel. form: of the images; see `band_transform` for
    others than PIL's. With --crop none the whole image is resized instead. Raises ValueError for an
    unknown --aa.
    """
    if form != RGB8:
        return band_transform(options, size, mean, std, form)
    try:
        transform = create_transform(
            size,
            is_training=True,
            scale=(options.min_crop, 1.0),
            ratio=relative_to(size, options.crop_ratio or RATIO),
            hflip=0.5 if options.hflip else 0.0,
            color_jitter=options.color_jitter,
            auto_augment=options.aa if options.aa != "none" else None,
            interpolation="bicubic",
            re_prob=options.reprob,
            re_mode=options.remode,
            re_count=options.recount,
            mean=mean,
            std=std,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise ValueError(f"--aa {options.aa} is no policy that timm knows ({error})") from error
    if options.crop == "none":
        transform.transforms[0] = Resize(size, InterpolationMode.BICUBIC)
    for operation in _operations(transform.transforms):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def build_mixup(options: TuningOptions, classes: int) -> Mixup | None:
    """Return Mixup and CutMix of a batch and its labels, None if both are off."""
    if not options.mixes:
        return None
    return Mixup(
        mixup_alpha=options.mixup,
        cutmix_alpha=options.cutmix,
        cutmix_minmax=options.cutmix_minmax,
        prob=options.mixup_prob,
        switch_prob=options.mixup_switch_prob,
        mode=options.mixup_mode,
        label_smoothing=options.smoothing,
        num_classes=classes,
    )


def _operations(steps: Any) -> Iterator[AugmentOp]:
    """Yield the operations of a policy, at any depth."""
    if isinstance(steps, AugmentOp):
        yield steps
    elif isinstance(steps, list | tuple):
        for step in steps:
            yield from _operations(step)
    else:
        for name in ("ops", "policy"):
            yield from _operations(getattr(steps, name, ()))


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the first `bits` bits of each pixel.

    timm sometimes asks for 0 bits, a black image, which Pillow refuses to make since version 13.
    """
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)
