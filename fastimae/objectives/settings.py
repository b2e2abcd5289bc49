"""The settings of our objectives, and the parts that users' own may derive theirs from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastimae.models.settings import HEAD_SPACE, MASK_RATIO, HeadSpace
from fastimae.settings import (
    ConfigError,
    Count,
    Expert,
    Idle,
    InnerShare,
    MaskShare,
    NotNegative,
    PairSettings,
    PartnerSettings,
    PositiveFloat,
    PositiveInt,
    Settings,
    Share,
    flag,
)

SecondViewKind = Literal["complement", "independent", "full"]


def mask_unit(mask_patch_size: int | None, patch_size: int) -> int:
    """Return the side, in patches, of the squares that are masked as a whole; None: one patch.

    Both sizes are in pixels. Raises ConfigError for a fraction of a patch.
    """
    unit, rest = divmod(mask_patch_size or patch_size, patch_size)
    if rest or unit < 1:
        raise ConfigError(
            f"--mask_patch_size {mask_patch_size} is not a multiple of the patch size {patch_size}"
        )
    return unit


@dataclasses.dataclass(kw_only=True)
class MaskSettings(Settings):
    """The mask: how much of each image is hidden, and in which units."""

    mask_ratio: InnerShare = MASK_RATIO
    """Share of patches that are masked."""
    mask_patch_size: PositiveInt | None = None
    """Side, in pixels, of the squares that are masked as a whole. None: the ViT's patch size."""

    def mask_unit(self, patch_size: int) -> int:
        """Return the side of these squares in patches. Raises ConfigError for a fraction."""
        return mask_unit(self.mask_patch_size, patch_size)


@dataclasses.dataclass(kw_only=True)
class PredictSettings(MaskSettings):
    """The mask, and how many of the masked patches are predicted."""

    predict_ratio: Expert[InnerShare | None] = None
    """Share of all patches that is predicted, and enters the loss: random ones of those that are
    masked, as in CrossMAE (0.25). None: all masked patches."""


@dataclasses.dataclass(kw_only=True)
class JitterSettings(Settings):
    """Changes of colour and sharpness."""

    color_jitter: Expert[NotNegative] = 0.0
    """Change colours as SimSiam does (0.4): brightness, contrast, saturation by up to this share,
    hue by a quarter of it; a fifth is gray."""
    blur: Expert[Share] = 0.0
    """Share of images that are blurred, by 0.1 to 2 pixels, as SimSiam does (0.5)."""


@dataclasses.dataclass(kw_only=True)
class GroupSettings(PartnerSettings):
    """Partners from a group of samples."""

    # Not 0, the whole batch, so that pairs stay the same however a step is divided into ranks and
    # micro-batches. Pairs are random for any group, as the order of an epoch is; 32 is small enough
    # to divide the usual batch sizes per GPU.
    mix_group: Expert[Count] = 32


@dataclasses.dataclass(kw_only=True)
class PixelSettings(GroupSettings, JitterSettings):
    """What changes the pixels of a batch: see `fastimae.objectives.pixels.Pixels`."""

    cutmix: Expert[NotNegative] = 0.0
    """Paste a box of another image into each image first, as CutMix does, with its area from
    Beta(A, A) of this A. 0: none."""
    color_jitter_on: Expert[Literal["image", "visible"]] = "image"
    """What --color_jitter changes: the whole image, or the visible patches and no target."""

    def idle(self) -> Iterator[Idle]:
        yield Idle(not self.color_jitter, ("color_jitter_on",), "without --color_jitter")
        yield Idle(not self.cutmix, ("mix_group",), "without --cutmix")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class ReconstructionSettings(PredictSettings):
    """The mask, and which of the masked pixels count in the loss."""

    ignore_boundary: Expert[Count] = 0
    """Masked pixels this near to a visible patch do not count in the loss. The hierarchical paper
    only suggests it (section 3.6)."""

    def check(self) -> None:
        """Check that what is near to a visible patch is known, too: see `Settings`."""
        super().check()
        self.require(
            not (self.ignore_boundary and self.predict_ratio),
            "--ignore_boundary needs the loss of all masked patches: drop --predict_ratio",
        )


@dataclasses.dataclass(kw_only=True)
class MAESettings(PixelSettings, ReconstructionSettings):
    """What is masked, what counts in the loss, and what is done to the pixels first."""

    mask_ratio: MaskShare = ReconstructionSettings.mask_ratio
    """Share of patches that are masked; 0, where an objective can: none."""

    def idle(self) -> Iterator[Idle]:
        of_masks = ("mask_patch_size", "predict_ratio", "ignore_boundary")
        yield Idle(not self.mask_ratio, of_masks, "with --mask_ratio 0")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class SecondViewSettings(MaskSettings):
    """The second view of an image, which a siamese objective compares with the masked one."""

    second_view: Expert[SecondViewKind] = "complement"
    """What the second view shows: what the first one hides, a random part, or all patches."""
    second_mask_ratio: Expert[InnerShare] = 0.25
    """Share of patches that are masked in an independent second view."""

    def idle(self) -> Iterator[Idle]:
        drawn = self.second_view == "independent"
        yield Idle(not drawn, ("second_mask_ratio",), "without --second_view independent")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class RMAESettings(PixelSettings, SecondViewSettings, PredictSettings):
    """The two views of R-MAE, and how its terms are balanced."""

    constraint_weight: Expert[NotNegative] = 1.0
    """Weight of the second view's reconstruction: lambda in R-MAE's equation 8."""


@dataclasses.dataclass(kw_only=True)
class MixSettings(Settings):
    """The weights of the two images in a mixture."""

    mix_beta: PositiveFloat = 1.0
    """Parameter b of Beta(b, b), from which the mixing ratio lambda is drawn."""
    mix_lambda: InnerShare | None = None
    """Fixed lambda; the subordinate image weighs min(lambda, 1 - lambda). None: drawn."""
    mix_per: Expert[Literal["batch", "sample"]] = "batch"
    """Draw one lambda per step (batch) or one per mixture (sample)."""

    def idle(self) -> Iterator[Idle]:
        yield Idle(self.mix_lambda is not None, ("mix_beta", "mix_per"), "with --mix_lambda")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class TeacherSettings(Settings):
    """The teacher, and how it is used."""

    teacher: Annotated[Path | None, flag(aliases=["--teacher_path"])] = None
    """MAE checkpoint whose latents are distilled. None: no distillation."""
    teach_model: Expert[str | None] = None
    """Name of the teacher's model. None: read from its checkpoint."""
    teach_num_heads: Expert[PositiveInt | None] = None
    """Attention heads of the teacher's encoder. None: from its checkpoint, or else by its width."""
    distill_weight: NotNegative = 1.0
    """Weight of the distillation loss."""
    teacher_view: Expert[Literal["clean", "mixed"]] = "clean"
    """What the teacher sees: each image alone (the paper) or the mixture (its released code)."""
    teacher_precision: Expert[Literal["auto", "fp8"]] = "auto"
    """fp8: the teacher multiplies in 8 bits (torchao, GPUs from 8.9 on); its error is reported."""

    def idle(self) -> Iterator[Idle]:
        of_teacher = ("teach_model", "teach_num_heads", "teacher_view", "teacher_precision")
        yield Idle(not self.teacher, (*of_teacher, "distill_weight"), "without --teacher")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class IMAESettings(
    TeacherSettings,
    GroupSettings,
    PairSettings,
    MixSettings,
    JitterSettings,
    ReconstructionSettings,
):
    """What is reconstructed from a mixture, and what a teacher adds."""

    same_class_ratio: Annotated[Share | None, flag(aliases=["--same_prob"])] = None
    targets: Literal["both", "subordinate", "dominant"] = "both"
    """Which of the two images to reconstruct."""
    disentangle: Expert[bool] = True
    """Give each image a head of its own. --no_disentangle: no heads, one latent for both images."""
    head_space: Expert[HeadSpace] = HEAD_SPACE
    """Width in which the two heads and the distillation work."""

    def idle(self) -> Iterator[Idle]:
        nothing_there = not (self.disentangle or self.teacher)
        yield Idle(nothing_there, ("head_space",), "with --no_disentangle and no --teacher")
        yield from super().idle()


@dataclasses.dataclass(kw_only=True)
class CMAESettings(PixelSettings, SecondViewSettings):
    """What is contrasted, and how: C-MAE of the occlusion paper (sections 3 and 5)."""

    mask_ratio: MaskShare = SecondViewSettings.mask_ratio
    color_jitter: Expert[NotNegative] = 0.4
    color_jitter_on: Expert[Literal["image", "visible"]] = "visible"
    contrast: Expert[Literal["infonce", "byol"]] = "infonce"
    """The loss of two views. infonce has negatives: the same place in the images of all ranks."""
    tokens: Expert[Literal["patch", "cls", "average", "both"]] = "patch"
    """What is contrasted: each patch, the class token, the mean of patches, patches and class."""
    encoder_mask_tokens: Expert[bool] = True
    """Put learnable tokens in the place of masked patches. Without, the encoder drops them."""
    temperature: Expert[PositiveFloat] = 0.2
    """Temperature of the softmax of --contrast infonce."""
    ema_momentum: Expert[InnerShare] = 0.996
    """Share of the target model's weights that a step keeps; the rest is the student's."""
    proj_hidden_dim: Expert[PositiveInt] = 2048
    """Width of the hidden layer of projector and predictor."""
    proj_dim: Expert[PositiveInt] = 768
    """Width of the output of projector and predictor."""

    def check(self) -> None:
        """Check that there are tokens to compare, too: see `Settings`."""
        super().check()
        hidden = self.mask_ratio > 0 and self.second_view != "full" and not self.encoder_mask_tokens
        self.require(
            not (hidden and self.tokens in ("patch", "both")),
            f"--tokens {self.tokens} with --no_encoder_mask_tokens compares patches that both views"
            f" show, and --second_view {self.second_view} has none, or not as many in each image:"
            " use --second_view full (or --tokens cls or average)",
        )

    def idle(self) -> Iterator[Idle]:
        of_masks = ("mask_patch_size", "second_view", "second_mask_ratio", "encoder_mask_tokens")
        yield Idle(not self.mask_ratio, of_masks, "with --mask_ratio 0")
        yield Idle(self.contrast == "byol", ("temperature",), "with --contrast byol")
        yield from super().idle()
