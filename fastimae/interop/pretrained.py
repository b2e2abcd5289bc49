"""Pre-trained masked autoencoders as i-MAE's teacher, or as a student's first weights.

Reads our own checkpoints and the layout of the official MAE files: {"model": state dict} or a
bare state dict.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_weights,
    model_weights,
)
from fastimae.models import SIZES, MaskedAutoencoder, parse_name

log = logging.getLogger("fastimae")

# Parts of a teacher that give no latents: files without them will do.
_UNUSED_OF_TEACHER = (
    "decoder_blocks.",
    "decoder_norm.",
    "decoder_pred.",
    "decoder_pos_embed",
    "mask_token",
)


def load_teacher(
    path: Path,
    student: MaskedAutoencoder,
    name: str | None = None,
    *,
    allow_partial: bool = False,
) -> MaskedAutoencoder:
    """A MAE for the student's image size, with the file's weights.

    name: of the teacher's model (--teach_model); read from the file where not given. Raises
    CheckpointError where the file does not hold such a MAE or lacks what gives latents.
    """
    content = _read(path)
    weights = model_weights(content, path)
    if "decoder_embed1.weight" in weights:
        raise CheckpointError(f"--teacher {path} is an i-MAE: distillation needs a plain MAE")
    sizes = _sizes(content, weights, path, name)
    teacher = MaskedAutoencoder(
        **sizes,
        img_size=student.img_size,
        in_chans=student.in_chans,
        mean=student.mean,
        std=student.std,
    )
    optional = _UNUSED_OF_TEACHER
    if student.head_space == "encoder":
        optional += ("decoder_embed.",)
    load_weights(teacher, weights, path, allow_partial=allow_partial, optional=optional)
    return teacher


def load_init(student: MaskedAutoencoder, path: Path, *, allow_partial: bool = False) -> None:
    """Start the student from a MAE; both heads of an i-MAE start as its `decoder_embed`.

    Heads in the encoder's width have no counterpart in a MAE and stay fresh. Raises
    CheckpointError that lists missing and unexpected keys.
    """
    weights = model_weights(_read(path), path)
    fresh: tuple[str, ...] = ()
    if student.heads == 2 and "decoder_embed1.weight" not in weights:
        if student.head_space == "encoder":
            fresh = ("decoder_embed1.", "decoder_embed2.")
        else:
            for kind in ("weight", "bias"):
                shared = weights.pop(f"decoder_embed.{kind}", None)
                if shared is not None:
                    weights[f"decoder_embed1.{kind}"] = weights[f"decoder_embed2.{kind}"] = shared
    load_weights(student, weights, path, allow_partial=allow_partial, optional=fresh)


def _read(path: Path) -> dict[str, Any]:
    content = load_checkpoint(path)
    if "fastimae_format" not in content:
        log.warning(
            "%s was not written by FastIMAE; the official MAE and i-MAE weights are licensed "
            "CC-BY-NC 4.0 (no commercial use)", path,
        )  # fmt: skip
    return content


def _sizes(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path, name: str | None
) -> dict[str, int]:
    """Keyword arguments of the model in the file, from its name, its settings or its shapes."""
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    try:
        width, patch_size = shapes["cls_token"][-1], shapes["patch_embed.proj.weight"][-1]
    except KeyError as error:
        raise CheckpointError(f"{path} is not a masked autoencoder: it has no {error}") from None
    args = content.get("args")
    args = args if isinstance(args, dict) else vars(args) if args else {}
    name = name or args.get("model") or _name_by_width(width, patch_size)
    if name is None:
        raise CheckpointError(f"{path}: name its model with --teach_model (width {width})")
    sizes = parse_name(re.sub(r"^tmae", "mae", name))  # i-MAE calls its teachers tmae_vit_...
    sizes |= {"embed_dim": width, "patch_size": patch_size, "depth": _depth(shapes, "blocks.")}
    if "decoder_embed.weight" in shapes:
        sizes["decoder_embed_dim"] = shapes["decoder_embed.weight"][0]
        sizes["decoder_depth"] = _depth(shapes, "decoder_blocks.") or 1
    if args.get("decoder_num_heads"):
        sizes["decoder_num_heads"] = args["decoder_num_heads"]
    return sizes


def _name_by_width(width: int, patch_size: int) -> str | None:
    """Shapes do not tell the number of attention heads; the usual widths do."""
    for size, sizes in SIZES.items():
        if sizes["embed_dim"] == width:
            return f"mae_vit_{size}_patch{patch_size}"
    return None


def _depth(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match[1] for key in shapes if (match := pattern.match(key))})
