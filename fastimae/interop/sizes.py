"""What model a checkpoint is of: from its settings, its name or its shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import imae
from fastimae.interop.files import Checkpoint
from fastimae.models import DECODER, SIZES, MaskedAutoencoder, parse_name

Shapes = Mapping[str, tuple[int, ...]]

# The only official files with normalised targets; they do not say so themselves.
_NORM_PIX_FILE = re.compile(r"mae_pretrain_vit_(base|large|huge)_full\.pth")
# i-MAE calls its teachers tmae_vit_..., fine-tuning code vit_..., timm vit_..._224.
_NAME = re.compile(r"(t?mae_)?(vit_[a-z]+_patch\d+(?:_dec\d+d\d+b)?)(_\d+)?(\..*)?")
# Settings of a run that its checkpoint keeps when it goes to another layout.
_OF_TRAINING = (
    *("mask_ratio", "mask_patch_size", "epochs", "mix_beta", "mix_lambda", "mix_per"),
    *("same_class_ratio", "reciprocal_pairs", "targets", "teacher_view", "distill_weight"),
    *("crop", "crop_ratio", "value_range"),
)


def model_arguments(
    checkpoint: Checkpoint,
    weights: Mapping[str, Tensor],
    name: str | None = None,
    flag: str = "--model",
) -> dict[str, Any]:
    """Keyword arguments of `MaskedAutoencoder` for a checkpoint's weights, given under our names.

    name: of the model, where shapes do not tell the number of its attention heads; `flag` is what
    the user sets it with. Raises CheckpointError where nothing tells.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    args, path = checkpoint.args, checkpoint.path
    _, in_chans, _, patch_size = shapes["patch_embed.proj.weight"]
    width = shapes["cls_token"][-1]
    sizes = _heads(args, shapes, path, name, flag)
    sizes |= {"embed_dim": width, "patch_size": patch_size, "in_chans": in_chans}
    sizes |= {"depth": depth(shapes, "blocks.")}
    if "blocks.0.mlp.fc1.weight" in shapes:
        sizes["mlp_ratio"] = shapes["blocks.0.mlp.fc1.weight"][0] / width
    if "mask_token" in shapes or "decoder_embed.weight" in shapes:
        sizes["decoder_embed_dim"] = shapes.get("mask_token", shapes.get("decoder_embed.bias"))[-1]
        sizes["decoder_depth"] = depth(shapes, "decoder_blocks.") or 1
    if imae.HEADS[0] in shapes:
        sizes |= {"heads": 2, "head_space": imae.head_space(weights)}
    return sizes | {
        "img_size": _image_size(args, shapes["pos_embed"][1] - 1, patch_size, path),
        "norm_pix_loss": bool(args.get("norm_pix_loss", _NORM_PIX_FILE.fullmatch(path.name))),
        "mean": _per_channel(args.get("mean"), in_chans),
        "std": _per_channel(args.get("std"), in_chans),
    }


def name_of(model: MaskedAutoencoder) -> str | None:
    """A name whose model has this encoder's width, heads and patches; None where there is none."""
    width, heads = model.pos_embed.shape[-1], model.blocks[0].attn.num_heads
    for size, sizes in SIZES.items():
        if (sizes["embed_dim"], sizes["num_heads"]) == (width, heads):
            return f"mae_vit_{size}_patch{model.patch_size}"
    return None


def settings_of(model: MaskedAutoencoder, args: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint of ours says of its model and training, by flag name.

    args: settings of the run. Of those, what shaped the weights is kept; paths are not, but for
    the teacher's file name.
    """
    decoder = model.decoder_blocks[0].attn
    training = {key: args[key] for key in _OF_TRAINING if key in args}
    if args.get("teacher"):
        training["teacher"] = Path(args["teacher"]).name
    return training | {
        "model": name_of(model),
        "num_heads": model.blocks[0].attn.num_heads,
        "decoder_embed_dim": decoder.proj.in_features,
        "decoder_depth": len(model.decoder_blocks),
        "decoder_num_heads": decoder.num_heads,
        "objective": "imae" if model.heads == 2 else "mae",
        "head_space": model.head_space,
        "input_size": list(model.img_size),
        "in_chans": model.in_chans,
        "mean": list(model.mean),
        "std": list(model.std),
        "norm_pix_loss": model.norm_pix_loss,
    }


def _heads(
    args: Mapping[str, Any], shapes: Shapes, path: Path, name: str | None, flag: str
) -> dict[str, Any]:
    """Sizes that shapes do not tell, above all the numbers of heads; the usual widths tell them."""
    width = shapes["cls_token"][-1]
    sizes = _named(name or args.get("model"))
    if name and sizes.get("embed_dim") != width:
        raise CheckpointError(f"{path}: {flag} {name} does not fit its width of {width}")
    if sizes.get("embed_dim") != width:
        usual = (size for size in SIZES.values() if size["embed_dim"] == width)
        sizes = {**DECODER, **next(usual, {})}
    given = ("num_heads", "decoder_num_heads")
    sizes |= {key: args[key] for key in given if args.get(key)}
    if "num_heads" not in sizes:
        raise CheckpointError(f"{path}: name its model with {flag} (width {width})")
    return sizes


def _named(name: object) -> dict[str, Any]:
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    try:
        return dict(parse_name(f"mae_{match[2]}")) if match else {}
    except ValueError:
        return {}


def _image_size(
    args: Mapping[str, Any], patches: int, patch_size: int, path: Path
) -> tuple[int, int]:
    """(height, width): what the settings say if it fits the positions, else a square that does."""
    given = args.get("input_size")
    given = [given] if isinstance(given, int) else given or []
    down, across = (side // patch_size for side in (*given, *given, 0, 0)[:2])
    side = math.isqrt(patches)
    if down * across == patches:
        return down * patch_size, across * patch_size
    if side * side == patches:
        return side * patch_size, side * patch_size
    raise CheckpointError(f"{path}: {patches} positions are no square and no setting says more")


def _per_channel(values: Sequence[float] | None, in_chans: int) -> tuple[float, ...] | None:
    return tuple(values) if values and len(values) == in_chans else None


def depth(shapes: Mapping[str, Any], prefix: str) -> int:
    """How many blocks there are whose names begin with `prefix`."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for key in shapes if (match := pattern.match(key))})
