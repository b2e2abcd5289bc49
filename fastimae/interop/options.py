"""Flags of fastimae-export and fastimae-import, and those that describe a checkpoint's model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastimae.interop.hints import Hints
from fastimae.settings import Expert, PixelMean, PixelStd, PositiveInt, Settings

Head = Literal["subordinate", "dominant"]
Target = Literal["timm", "huggingface", "detectron2", "mae", "fastimae"]


@dataclasses.dataclass(kw_only=True)
class ModelOptions(Settings):
    """The model of a checkpoint, where the file does not say. What is assumed is logged."""

    model: str | None = None
    """Name of the model (mae_vit_base_patch16), if the file does not say."""
    num_heads: Expert[int | None] = None
    """Attention heads of the encoder, if the file does not say. None: by its width."""
    decoder_num_heads: Expert[int | None] = None
    """Attention heads of the decoder, if the file does not say. None: by its width."""
    input_size: tuple[PositiveInt, ...] | None = None
    """Image size in pixels, a side or height and width, if the file does not say. None: a square
    that fits its positions."""
    norm_pix_loss: Expert[Literal["on", "off"] | None] = None
    """on: trained on normalised targets. None: as the file says, else off."""
    mean: Expert[tuple[PixelMean, ...] | None] = None
    """Mean of each channel in its training. None: as the file says, else ImageNet's."""
    std: Expert[tuple[PixelStd, ...] | None] = None
    """Standard deviation of each channel, likewise."""
    use_ema: bool = False
    """Take the averaged weights (EMA), if the file has both."""

    def of_model(self) -> dict[str, Any]:
        """Return keyword arguments of `load_model`."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(ModelOptions)}
        given["name"], given["img_size"] = given.pop("model"), given.pop("input_size")
        if self.norm_pix_loss is not None:
            given["norm_pix_loss"] = self.norm_pix_loss == "on"
        return given | {"hints": Hints.of(type(self))}


@dataclasses.dataclass(kw_only=True)
class TranslateOptions(ModelOptions):
    """What is read, and what is written."""

    checkpoint: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="CHECKPOINT")]]
    """A .pth, a .safetensors, or a folder with Hugging Face's config.json."""
    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """The file to write: .safetensors or .pth."""
    encoder_only: bool = False
    """Leave the decoder out."""
    allow_partial: bool = False
    """Write the file even if keys are missing or unexpected (they are listed)."""
    force: bool = False
    """Overwrite OUT."""
    debug: Expert[bool] = False
    """Show tracebacks."""


@dataclasses.dataclass(kw_only=True)
class ImportOptions(TranslateOptions):
    """Convert a checkpoint (of MAE, i-MAE, timm, Hugging Face) to our layout.

    fastimae-import mae_pretrain_vit_base.pth mae.pth
    """


@dataclasses.dataclass(kw_only=True)
class ExportOptions(TranslateOptions):
    """Convert a checkpoint (ours, or any that fastimae-import reads) for other code.

    fastimae-export runs/mae/checkpoint-last.pth mae_vit_base --to huggingface
    """

    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """The file to write: .safetensors or .pth. A folder with --to huggingface; a .pth with --to
    detectron2."""
    to: Target
    """Layout to write. timm, detectron2 (ViTDet): the encoder only. huggingface: a folder, ViTMAE's
    or, with several class tokens, Pixio's."""
    head: Head | None = None
    """Head of an i-MAE to keep as decoder_embed. None: both; for huggingface, the dominant."""
    global_pool: Expert[Literal["token", "avg"] | None] = None
    """For timm: avg renames norm to fc_norm, for models with global_pool='avg'. None: avg if the
    file was fine-tuned so, else token."""
