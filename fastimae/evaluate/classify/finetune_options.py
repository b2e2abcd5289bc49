"""Options of fine-tuning, with MAE's names and defaults, and the papers' settings as recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastimae.engine.prepare import StepSettings
from fastimae.evaluate.classify.training import TrainingOptions
from fastimae.evaluate.classify.validation import BEST
from fastimae.evaluate.trained import crop_ratio_of
from fastimae.interop.finetuned import pools
from fastimae.loaders.crops import RATIO, check_ratio
from fastimae.loaders.settings import ReadSettings
from fastimae.settings import (
    ConfigError,
    Free,
    NotNegative,
    PositiveInt,
    Range,
    Share,
)

Recipe = dict[str, Any]
PositiveShare = Annotated[
    float, Range(lambda value: 0 < value <= 1, "must lie above 0 and at most at 1, not {}")
]


@dataclasses.dataclass(kw_only=True)
class FinetuneOptions(StepSettings, TrainingOptions):
    """Train all of the encoder, and a classifier on it, with labels."""

    checkpoint: Annotated[Path | None, tyro.conf.arg(aliases=["--finetune"])] = None
    """What to start from: a file of fastimae-train, or a MAE of the official layout, i-MAE, timm or
    Hugging Face; a fine-tuned one gives its encoder. Not needed with --eval."""
    recipe: Free[str | None] = None
    """A named run to start from; other flags win over it."""
    random_init: bool = False
    """Start the same architecture from fresh weights: what pre-training must beat."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Pixels: a side, or height and width. None: as in pre-training."""
    nb_classes: PositiveInt | None = None
    """Number of classes. None: as the data have."""
    global_pool: bool = True
    """Classify the mean of the patches."""
    cls_token: bool = False
    """Classify the class token instead."""
    compile: Free[Literal["auto", "on", "off"]] = "off"
    """torch.compile for the transformer blocks, each by itself where --drop_path tells them apart:
    slow to start, and not measured yet. auto: on a GPU."""
    drop_path: Share = 0.1
    """Share of residual branches that the last block drops; the first drops none."""
    layer_decay: PositiveShare = 0.75
    """The learning rate of each layer is this much of the next one's."""
    min_lr: NotNegative = 1e-6
    """Where the half-cosine ends."""
    min_crop: PositiveShare = 0.08
    """Smallest share of an image's area that a random crop takes."""
    crop: Literal["random", "none"] | None = None
    """none: show the whole image, resized to --input_size. None: as in pre-training."""
    crop_ratio: tuple[float, float] | None = None
    """Least and largest width / height of a random crop, relative to --input_size's. None: as in
    pre-training."""
    color_jitter: float | None = None
    """Strength of colour jitter, for --aa none."""
    aa: str = "rand-m9-mstd0.5-inc1"
    """timm's name of an augmentation policy, or none."""
    smoothing: Share = 0.1
    """Label smoothing."""
    reprob: Share = 0.25
    """Share of images of which random erasing takes a part."""
    remode: Literal["pixel", "rand", "const"] = "pixel"
    """What the erased part becomes: noise, one random colour, or nothing."""
    recount: PositiveInt = 1
    """Erased parts in an image."""
    mixup: NotNegative = 0.0
    """Alpha of Mixup; over 0 it is on."""
    cutmix: NotNegative = 0.0
    """Alpha of CutMix; over 0 it is on."""
    cutmix_minmax: tuple[float, float] | None = None
    """Least and largest side of CutMix's box, instead of its alpha."""
    mixup_prob: Share = 1.0
    """Share of batches that are mixed, where one of the two is on."""
    mixup_switch_prob: Share = 0.5
    """Share of CutMix where both are on."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """One ratio for a batch, for a pair, or for each image."""
    eval: bool = False
    """Only test the classifier of --resume, be it ours, MAE's or timm's, on the images of --val;
    without --resume, that of output_dir/checkpoint-best.pth."""
    dist_eval: Free[bool] = True
    """Processes share the validation images; --no_dist_eval: each tests on all."""
    pin_mem: Free[bool] = ReadSettings.pin_mem
    """Page-locked batches, for faster copies to a GPU."""

    def check(self) -> None:
        """As of `Settings`; and of a checkpoint that is not there."""
        super().check()
        if self.checkpoint is None and not self.eval:
            raise ConfigError("give the pre-trained model as --checkpoint FILE")
        if self.checkpoint is None and not self.output_dir and self.resume in ("", "auto"):
            raise ConfigError("--eval: name the classifier as --resume FILE")
        check_ratio(self.crop_ratio or RATIO)
        if self.mixes and self.batch_size % 2:
            raise ConfigError("--mixup and --cutmix mix pairs: make --batch_size even")
        if self.color_jitter is not None and self.aa != "none":
            raise ConfigError("--color_jitter has no effect beside a policy: add --aa none")

    @property
    def pools(self) -> bool:
        """Whether the mean of the patches is classified."""
        return self.global_pool and not self.cls_token

    @property
    def mixes(self) -> bool:
        """Whether Mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    def crop_of(self, trained: Mapping[str, Any]) -> str:
        """As of `EvalOptions`, unless --crop is given."""
        return self.crop or super().crop_of(trained)

    def settle_crops(self, trained: Mapping[str, Any]) -> None:
        """Fill in crop and crop_ratio by the settings of a training where they are not given.

        Raises ConfigError for flags that have no effect then, but not with --eval, which never
        crops at random.
        """
        asked, ratio = self.crop, self.crop_ratio
        self.crop = self.crop_of(trained)
        self.crop_ratio = ratio or crop_ratio_of(trained)
        if self.crop == "random" or self.eval:
            return
        if ratio is not None:
            raise ConfigError(_has_no_effect("crop_ratio", self, asked is None))
        if self.min_crop != FinetuneOptions.min_crop:
            raise ConfigError(_has_no_effect("min_crop", self, asked is None))

    def of_model(self) -> dict[str, Any]:
        """As of `ModelOptions`; --input_size is that of the classifier, not of the file."""
        said = super().of_model()
        return {**said, "img_size": None, "hints": said["hints"].without("input_size")}

    def folder(self, task: str) -> Path:
        """As of `EvalOptions`; a folder of its own for the baseline, the file's for --eval FILE."""
        if self.checkpoint is None and self.output_dir is None:
            return Path(self.resume).parent
        return super().folder(f"{task}-random" if self.random_init else task)

    def source(self) -> Path:
        """With --eval the classifier to test: --resume FILE, else the run's best."""
        if not self.eval:
            return super().source()
        named = self.resume not in ("", "auto")
        return Path(self.resume) if named else self.folder("finetune") / BEST


def _has_no_effect(name: str, options: FinetuneOptions, as_trained: bool) -> str:
    """What is said of a setting of random crops where whole images are shown; one of a recipe
    cannot be dropped alone. as_trained: not for --crop, but for the checkpoint's training."""
    why = f", with which {options.checkpoint} was trained" if as_trained else ""
    recipe = RECIPES.get(options.recipe or "", dict)()
    of_recipe = recipe.get(name) == getattr(options, name)
    whose = f" of --recipe {options.recipe}" if of_recipe else ""
    undo = f"--{name} {getattr(FinetuneOptions, name)}" if of_recipe else f"drop --{name}"
    return (
        f"--{name}{whose} has no effect with --crop none{why}: add --crop random, or {undo} to "
        "show whole images"
    )


def check_pooling(options: FinetuneOptions, path: Path, weights: Mapping[str, object]) -> None:
    """Raise ConfigError where flags say otherwise than the classifier's own weights."""
    if pools(weights) and not options.pools:
        flag = "--cls_token" if options.cls_token else "--no_global_pool"
        raise ConfigError(f"{path} classifies the mean of the patches: leave out {flag}")


def mae_vit_base() -> Recipe:
    """MAE's fine-tuning of ViT-B on ImageNet, as its released recipe.

    Command: torchrun --nproc_per_node=8 --no-python fastimae-eval finetune --recipe mae_vit_base
             --checkpoint mae.pth --ffcv train.beton --val val.beton --batch_size 128
    Hardware: written for 8 GPUs; effective batch 1024 (batch_size x GPUs x accum_iter).
    Expected: 83.6 % in the paper, after 1600 epochs of pre-training; not run here.
    """
    return {
        "epochs": 100, "blr": 5e-4, "layer_decay": 0.65, "drop_path": 0.1,
        "weight_decay": 0.05, "mixup": 0.8, "cutmix": 1.0, "reprob": 0.25,
    }  # fmt: skip


def mae_vit_large() -> Recipe:
    """MAE's fine-tuning of ViT-L on ImageNet: 50 epochs, batch 1024; 85.9 % in the paper."""
    return {**mae_vit_base(), "epochs": 50, "blr": 1e-3, "layer_decay": 0.75, "drop_path": 0.2}


def mae_vit_huge() -> Recipe:
    """MAE's fine-tuning of ViT-H on ImageNet: 50 epochs, batch 1024; 86.9 % in the paper."""
    return {**mae_vit_large(), "drop_path": 0.3}


def imae_cifar10() -> Recipe:
    """CIFAR-10 at 32 pixels, after the pre-training recipe of that name.

    The optimizer and augmentation are MAE's for ViT-B; epochs, crops and rate are our choice.

    Command: fastimae-eval finetune --recipe imae_cifar10 --checkpoint checkpoint-last.pth
             --ffcv cifar10.beton --val cifar10/val
    Hardware: one GPU, or 2 CPU cores for an epoch or two.
    Expected: not measured yet.
    """
    return {
        **mae_vit_base(), "batch_size": 512, "blr": 1e-3, "layer_decay": 0.75, "min_crop": 0.5,
    }  # fmt: skip


RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (mae_vit_base, mae_vit_large, mae_vit_huge, imae_cifar10)
}
