"""Flags of a linear probe, and the papers' settings as recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from fastimae.evaluate.options.base import Kept
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
    """Train a linear or an attentive classifier on frozen features.

    fastimae-eval linear --checkpoint mae.pth --ffcv train.beton --val val.beton
    """

    probe: Literal["linear", "attentive"] = "linear"
    """linear: of one vector per image. attentive: of an attention over all tokens, which are
    computed in each epoch anew."""
    probe_heads: Expert[PositiveInt | None] = None
    """Heads of that attention. None: as many as the encoder has."""
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
    opt: Literal["sgd", "lars", "adamw"] = "sgd"
    """SGD or LARS, both with momentum 0.9, or AdamW. LARS, MAE's choice, is for batches of many
    thousands."""
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
        yield Idle(self.attends, ("pool",), "with --probe attentive, which pools itself")
        yield Idle(not self.attends, ("probe_heads",), "without --probe attentive")

    @property
    def attends(self) -> bool:
        """Whether the probe is attentive."""
        return self.probe == "attentive"

    @property
    def kept(self) -> Kept | None:
        """As in `ProbeOptions`: all tokens for an attentive probe."""
        return "tokens" if self.attends else self.pool

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
        from fastimae.evaluate.training.batches import check_step  # which imports torch

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


def attentive() -> dict[str, Any]:
    """Train an attentive probe on random crops, by AdamW: a learned query attends to the tokens.

    Command: fastimae-eval linear --recipe attentive --checkpoint mae.pth --ffcv train.beton
             --val val.beton
    Ours: all values. The probe is that of El-Nouby et al. (2024), who report the best of a grid of
          rates; try --blr.
    Hardware: one GPU; on 8, add --accum_iter 1. Each of 90 epochs runs the encoder on all images.
    Expected: unknown. Not run here.
    """
    return {
        "probe": "attentive", "opt": "adamw", "blr": 2.5e-4, "weight_decay": 0.05,
        "batch_size": 256, "accum_iter": 4, "crop": "random",
    }  # fmt: skip


def imae_cifar10() -> dict[str, Any]:
    """i-MAE's linear probe on CIFAR-10 and CIFAR-100: SGD, 200 epochs (table 8).

    Command: fastimae-eval linear --recipe imae_cifar10 --checkpoint checkpoint-last.pth
             --ffcv cifar10.beton --val cifar10/val
    Paper: SGD, blr 1e-2, batch 128, 200 epochs, no augmentation (table 8); no weight decay, a batch
           norm without affine part (section 4.1). Of the momenta 0.9 and 0.999, SGD takes the
           first.
    Ours: warm-up of 10 epochs, as in MAE's table 10. The table's mixing rows are taken for those of
          pre-training: the probe sees clean images.
    Hardware: one GPU, or a CPU: features are computed once.
    Expected: 77.61 % after imae_cifar10 at --same_class_ratio 1, 72.47 % of the MAE (table 1). Not
              run here.
    """
    return {
        "opt": "sgd", "blr": 1e-2, "batch_size": 128, "epochs": 200, "weight_decay": 0.0,
        "crop": "center",
    }  # fmt: skip


def imae_cifar100() -> dict[str, Any]:
    """i-MAE's linear probe on CIFAR-100: as imae_cifar10, which table 8 has in the same column."""
    return imae_cifar10()


def imae_tiny_imagenet() -> dict[str, Any]:
    """i-MAE's linear probe on Tiny-ImageNet: SGD, 200 epochs of random crops (table 8).

    Command: fastimae-eval linear --recipe imae_tiny_imagenet --checkpoint checkpoint-last.pth
             --ffcv tiny.beton --val tiny_val.beton
    Paper: batch 256, RandomResizedCrop (table 8); the rest as in imae_cifar10.
    Ours: as in imae_cifar10; crops of 8 % of the area or more, and flips, as in MAE's code.
    Hardware: one GPU. The encoder runs on all images in each epoch.
    Expected: 20.40 % after imae_tiny_imagenet_semantics at --same_class_ratio 1 (table 1). Not run
              here.
    """
    return {**imae_cifar10(), "batch_size": 256, "crop": "random"}


def imae_vit_base() -> dict[str, Any]:
    """i-MAE's linear probe on ImageNet: SGD, 25 epochs of random crops (table 8).

    Command: fastimae-eval linear --recipe imae_vit_base --checkpoint checkpoint-last.pth
             --ffcv train.beton --val val.beton
    Paper: batch 1024, 25 epochs, RandomResizedCrop (table 8); the rest as in imae_cifar10.
    Ours: as in imae_tiny_imagenet.
    Hardware: one GPU, as 2 batches of 512 for each step; on 8 add --batch_size 128 --accum_iter 1.
    Expected: the paper has no accuracy on ImageNet.
    """
    return {
        **imae_tiny_imagenet(), "batch_size": 512, "accum_iter": 2, "epochs": 25,
    }  # fmt: skip


RECIPES = {
    recipe.__name__: recipe
    for recipe in (mae, attentive, imae_cifar10, imae_cifar100, imae_tiny_imagenet, imae_vit_base)
}
