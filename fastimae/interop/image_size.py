"""The image size of a checkpoint, which the number of its positions does not determine.

A size is (height, width) in pixels. Sixteen positions may be 4 x 4 patches, 2 x 8 or 8 x 2, and
the model computes something different with each.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.conversion import Shapes
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.models.vit import sincos_positions

Size = tuple[int, int]

_MAX_DISTANCE = 0.1
"""Positions are MAE's sines and cosines if they differ by less than this, relative to the norm.

That allows for any number format, and for fine-tuning. Other grids differ by more than 0.16.
"""


def patches_of(shapes: Shapes) -> int:
    """Return the number of positions beside the class tokens'."""
    return shapes["pos_embed"][1] - shapes["cls_token"][1]


def size_if_fitting(stated: Any, shapes: Shapes) -> Size | None:
    """Return the size that settings or a name state, a side or both, if it fits the positions."""
    size = parse_size(stated)
    return size if size and _fits(size, shapes) else None


def size_from_positions(positions: Tensor | None, shapes: Shapes) -> Size | None:
    """Return the size whose sines and cosines, which MAE does not train, are these positions."""
    width, patch = shapes["pos_embed"][-1], _patch(shapes)
    if positions is None or tuple(positions.shape) != shapes["pos_embed"] or width % 4:
        return None
    patches = patches_of(shapes)
    for rows in (side for side in range(1, patches + 1) if patches % side == 0):
        columns = patches // rows
        table = sincos_positions(width, (rows, columns), shapes["cls_token"][1])
        if (positions.float() - table).norm() < _MAX_DISTANCE * table.norm():
            return rows * patch, columns * patch
    return None


def square_size(shapes: Shapes) -> Size | None:
    """Return the square with that many positions, if there is one."""
    side = math.isqrt(patches_of(shapes))
    pixels = side * _patch(shapes)
    return (pixels, pixels) if side * side == patches_of(shapes) else None


def check_size(checkpoint: Checkpoint, value: Any) -> Size:
    """Check the size that the user gave. CheckpointError if it does not match the positions."""
    size, flag = checked_size(checkpoint, value), checkpoint.hints.to_set("input_size")
    patch, patches = _patch(checkpoint.shapes), patches_of(checkpoint.shapes)
    if not _fits(size, checkpoint.shapes):
        raise CheckpointError(
            f"{checkpoint.path} has positions for {patches} patches, {flag} {size_text(size)} has "
            f"{size[0] / patch * (size[1] / patch):.4g} of {patch} x {patch} pixels"
        )
    return size


def checked_size(checkpoint: Checkpoint, value: Any) -> Size:
    """Return height and width from what the user gave. Raises CheckpointError for anything else."""
    if size := parse_size(value):
        return size
    flag = checkpoint.hints.to_set("input_size")
    raise CheckpointError(f"{flag} takes a side, or height and width, not {value}")


def parse_size(value: Any) -> Size | None:
    """Return height and width from these or from one side; None for anything else."""
    sides = (value,) if isinstance(value, int) else tuple(value or ())
    valid = all(isinstance(side, int) and side > 0 for side in sides)
    return (sides * 2)[:2] if valid and len(sides) in (1, 2) else None


def size_text(size: Size) -> str:
    """Write a size as a flag takes it: one number for a square."""
    return " ".join(map(str, size[:1] if size[0] == size[1] else size))


def in_words(size: Size) -> str:
    """Write a size for people: both sides."""
    return "{} x {}".format(*size)


def unknown_size_error(checkpoint: Checkpoint) -> CheckpointError:
    """Return the error for a file whose image size is unknown."""
    patches, positions = patches_of(checkpoint.shapes), checkpoint.shapes["pos_embed"][1]
    square = math.isqrt(positions) ** 2 == positions
    alone = f"; {positions} positions without a class token's (no_embed_class) are unsupported"
    return CheckpointError(
        f"{checkpoint.path}: its positions are for {patches} patches, which is not a square, and "
        f"their arrangement is unknown: give {checkpoint.hints.to_set('input_size')}, height and "
        f"width in pixels{alone * square}"
    )


def _fits(size: Size, shapes: Shapes) -> bool:
    patch = _patch(shapes)
    divisible = not (size[0] % patch or size[1] % patch)
    return divisible and size[0] // patch * (size[1] // patch) == patches_of(shapes)


def _patch(shapes: Shapes) -> int:
    return shapes["patch_embed.proj.weight"][-1]
