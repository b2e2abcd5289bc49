"""Options of fine-tuning, with MAE's names and defaults; finetune_recipes.py has the papers'."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from fastimae.engine.settings import StepSettings
from fastimae.evaluate.options.base import EvalOptions
from fastimae.evaluate.options.labels import TrainingOptions
from fastimae.evaluate.options.retested import Retested, names_of
from fastimae.loaders.images.crops import RATIO, CropSettings, check_ratio
from fastimae.loaders.settings import ReadSettings
from fastimae.objectives.settings import PixelSettings
from fastimae.settings import (
    ConfigError,
    Expert,
    Free,
    NotNegative,
    PositiveInt,
    PositiveShare,
    Share,
)
from fastimae.trained import crop_ratio_of


@dataclasses.dataclass(kw_only=True)
class TuningOptions(StepSettings, TrainingOptions):
    """How the encoder, and a classifier on it, are trained."""

    recipe: Free[str | None] = None
    """Name of a recipe to start from; other flags override its settings."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Image size in pixels: a side, or height and width. None: as in pre-training."""
    nb_classes: Expert[PositiveInt | None] = None
    """Number of classes. None: that of the data."""
    global_pool: bool = True
    """Classify the mean of the patches' latents."""
    cls_token: Expert[bool] = False
    """Classify the class token's latent instead."""
    compile: Expert[Free[Literal["auto", "on", "off"]]] = "off"
    """torch.compile for the transformer blocks; auto: on a GPU. Slow to start if --drop_path makes
    blocks differ; not measured yet."""
    drop_path: Share = 0.1
    """Share of residual branches that the last block drops; the first drops none."""
    layer_decay: PositiveShare = 0.75
    """Learning rate of each layer, as a share of the next one's."""
    min_lr: Expert[NotNegative] = 1e-6
    """Learning rate at the end of the half-cosine."""
    hflip: bool = CropSettings.hflip
    """Flip half of the images horizontally."""
    min_crop: PositiveShare = 0.08
    """Smallest share of an image's area that a random crop takes."""
    crop: Literal["random", "none"] | None = None
    """none: resize the whole image to --input_size. None: as in pre-training."""
    crop_ratio: Expert[tuple[float, float] | None] = None
    """Smallest and largest width / height of a random crop, relative to --input_size's. None: as in
    pre-training."""
    color_jitter: Expert[float | None] = None
    """Strength of colour jitter, with --aa none. None: off."""
    aa: str = "rand-m9-mstd0.5-inc1"
    """Augmentation policy by timm's name, or none."""
    smoothing: Share = 0.1
    """Label smoothing."""
    reprob: Share = 0.25
    """Share of images in which random erasing erases a part."""
    remode: Expert[Literal["pixel", "rand", "const"]] = "pixel"
    """Content of the erased part: noise (pixel), one random colour (rand), or zeros (const)."""
    recount: Expert[PositiveInt] = 1
    """Number of erased parts in an image."""
    mixup: NotNegative = 0.0
    """Alpha of Mixup; 0: off."""
    cutmix: NotNegative = PixelSettings.cutmix
    """Alpha of CutMix; 0: off."""
    cutmix_minmax: Expert[tuple[float, float] | None] = None
    """Smallest and largest side of CutMix's box, as shares of the image's, instead of its alpha."""
    mixup_prob: Expert[Share] = 1.0
    """Share of batches that are mixed, if Mixup or CutMix is on."""
    mixup_switch_prob: Expert[Share] = 0.5
    """Share of CutMix if both are on."""
    mixup_mode: Expert[Literal["batch", "pair", "elem"]] = "batch"
    """What shares a mixing ratio: a batch, a pair, or one image (elem)."""
    epoch_samples: Expert[PositiveInt | None] = None
    """Images that an epoch draws, with the images again and again. None: each once."""
    dist_eval: Expert[Free[bool]] = True
    """Share the validation images among the processes; --no_dist_eval: each tests on all."""
    pin_mem: Expert[Free[bool]] = ReadSettings.pin_mem
    """Page-locked batches, for faster copies to a GPU."""

    def check(self) -> None:
        """Raise ConfigError for values that are out of range, missing, or do not fit together."""
        super().check()
        check_ratio(self.crop_ratio or RATIO)
        if self.mixes and self.batch_size % 2:
            raise ConfigError("--mixup and --cutmix mix pairs: make --batch_size even")
        if self.color_jitter is not None and self.aa != "none":
            raise ConfigError("--color_jitter has no effect beside a policy: add --aa none")

    @property
    def pools(self) -> bool:
        """Whether the mean of the patches is classified, not the class token."""
        return self.global_pool and not self.cls_token

    @property
    def mixes(self) -> bool:
        """Whether Mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    def crop_of(self, trained: Mapping[str, Any]) -> str:
        """Return --crop if given, else that of the training."""
        return self.crop or super().crop_of(trained)

    def settle_crops(self, trained: Mapping[str, Any]) -> None:
        """Fill in crop and crop_ratio from the settings of a training, unless they are given."""
        self.crop = self.crop_of(trained)
        self.crop_ratio = self.crop_ratio or crop_ratio_of(trained)

    def check_crops(self, trained: Mapping[str, Any]) -> None:
        """Raise ConfigError for flags of random crops if images are resized whole.

        trained: the settings of the training that `settle_crops` follows.
        """
        if self.crop_of(trained) == "random":
            return
        for name in ("crop_ratio", "min_crop"):
            if getattr(self, name) != getattr(TuningOptions, name):
                why = f", with which {self.checkpoint} was trained" if self.crop is None else ""
                raise ConfigError(
                    f"--{name} has no effect with --crop none{why}: add --crop random, or drop "
                    f"--{name} to use whole images"
                )

    def of_model(self) -> dict[str, Any]:
        """Return the flags for the model in the file; --input_size is for the classifier."""
        flags = super().of_model()
        return {**flags, "img_size": None, "hints": flags["hints"].without("input_size")}


@dataclasses.dataclass(kw_only=True)
class FinetuneOptions(Retested, TuningOptions):
    """Train the encoder, and a classifier on it, with labels.

    fastimae-eval finetune --recipe mae_vit_base --checkpoint mae.pth --data_path imagenet
    """

    task: ClassVar[str] = "finetune"
    tested_with = frozenset(
        {*names_of(EvalOptions), "crop", "global_pool", "cls_token", "dist_eval", "random_init"}
        - {"in_chans"}
    )

    checkpoint: Annotated[Path | None, tyro.conf.arg(aliases=["--finetune"])] = None
    """Checkpoint of fastimae-train, MAE's code, i-MAE, timm or Hugging Face; of a fine-tuned one,
    its encoder is used. Not needed with --eval."""
    eval: bool = False
    """Only test the classifier of --resume (ours, MAE's or timm's) on the images of --val; without
    --resume, that of output_dir/checkpoint-best.pth."""
