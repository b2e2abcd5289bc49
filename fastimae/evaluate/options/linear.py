"""Flags of a linear probe, and MAE's settings as a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.evaluate.options.labels import ProbeOptions, TrainingOptions
from fastimae.loaders.images.crops import RATIO, Crops, CropSettings, check_ratio
from fastimae.settings import Expert, Free, Idle, NotNegative, PositiveInt, PositiveShare
from fastimae.trained import crop_ratio_of, training_settings

if TYPE_CHECKING:
    from fastimae.engine.distributed import World
    from fastimae.evaluate.images import Images


@dataclasses.dataclass(kw_only=True)
class LinearOptions(ProbeOptions, TrainingOptions):
    """Train a linear classifier on frozen features.

    fastimae-eval linear --checkpoint mae.pth --ffcv train.beton --val val.beton
    """

    batch_size: PositiveInt = 512
    """Features per GPU and step."""
    epochs: PositiveInt = 90
    """Passes over the features."""
    crop: Literal["center", "random"] = "center"
    """center: features of images' centres, computed once. random: of random crops, in each epoch
    anew, as in MAE."""
    min_crop: PositiveShare = FinetuneOptions.min_crop
    """Smallest share of an image's area that a random crop takes."""
    crop_ratio: Expert[tuple[float, float] | None] = FinetuneOptions.crop_ratio
    """Smallest and largest width / height of a random crop, relative to --input_size's. None: as in
    pre-training."""
    hflip: bool = CropSettings.hflip
    """Flip half of the random crops horizontally."""
    recipe: Free[str | None] = None
    """Name of a recipe to start from; other flags override its settings."""
    opt: Literal["sgd", "lars"] = "sgd"
    """SGD or LARS, both with momentum 0.9. LARS, MAE's choice, is for batches of many thousands."""
    blr: NotNegative = 0.1
    """Base learning rate, for an effective batch of 256."""
    weight_decay: NotNegative = 0.0
    """Weight decay of the matrix; the bias has none."""
    warmup_epochs: NotNegative = 10
    """Epochs of linear warm-up."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, and DataError for such a ratio."""
        super().check()
        check_ratio(self.crop_ratio or RATIO)

    def idle(self) -> Iterator[Idle]:
        """List the settings without effect, see `Settings`."""
        yield from super().idle()
        of_windows = ("min_crop", "crop_ratio", "hflip")
        yield Idle(self.crop == "center", of_windows, "without --crop random")

    def settle_crops(self, trained: Mapping[str, Any]) -> None:
        """Fill in the crop_ratio of random crops from the settings of a training if not given."""
        if self.crop == "random":
            self.crop_ratio = self.crop_ratio or crop_ratio_of(trained)

    def described(self) -> dict[str, Any]:
        """Return all settings for results.json; "train_crop" is that of the images to train on."""
        tested = self.crop_of(training_settings(self.checkpoint))
        return {**super().described(), "crop": tested, "train_crop": self.crop}

    def crops(self, size: tuple[int, int], channels: int) -> Crops:
        """Return the random crops of training images. size: (height, width)."""
        return Crops(
            size=size, channels=channels, scale=(self.min_crop, 1.0),
            ratio=self.crop_ratio or RATIO, hflip=self.hflip,
        )  # fmt: skip

    def check_images(self, train: Images, world: World) -> None:
        """Raise ConfigError if there are too few images for a step."""
        from fastimae.evaluate.labels.classification import check_step  # which imports torch

        check_step(len(train), self.batch_size, world, self.accum_iter)


def mae() -> dict[str, Any]:
    """MAE's linear probe on ImageNet: random crops and flips, LARS at an effective batch of 16384.

    The batch is added up from parts of 512, as many as MAE's code has on a GPU; each part has its
    own batch statistics, there and here.

    Command: fastimae-eval linear --recipe mae --checkpoint mae.pth --ffcv train.beton
             --val val.beton
    Hardware: one GPU; on 8, add --accum_iter 4. Each of 90 epochs runs the encoder on all images.
    With --crop center --batch_size 16384 --accum_iter 1 the encoder runs once.
    Expected: 68.0 % for ViT-B in the paper. Not run here.
    """
    return {"opt": "lars", "batch_size": 512, "accum_iter": 32, "crop": "random"}


RECIPES = {"mae": mae}
