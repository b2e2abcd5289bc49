"""How a file's positions lie: the size of its images, which their number does not tell.

A size is (height, width) in pixels. Sixteen positions are 4 x 4 patches, 2 x 8, or 8 x 2: each
computes something else.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.conversion import Shapes
from fastimae.interop.open import Checkpoint
from fastimae.models.vit import sincos_positions

Size = tuple[int, int]

_FAR = 0.1
"""Positions are MAE's where they are nearer to them than this, relative to their norm: in any
number format, and fine-tuned ones, too. Other grids are further apart than 0.16."""


def patches_of(shapes: Shapes) -> int:
    """How many positions there are beside the class token's."""
    return shapes["pos_embed"][1] - 1


def fitting(stated: Any, shapes: Shapes) -> Size | None:
    """What settings or a name say, a side or both, if it fits the positions."""
    size = as_size(stated)
    return size if size and _fits(size, shapes) else None


def size_by_positions(positions: Tensor | None, shapes: Shapes) -> Size | None:
    """The only size whose sines and cosines, which MAE does not train, are these positions."""
    width, patch = shapes["pos_embed"][-1], _patch(shapes)
    if positions is None or tuple(positions.shape) != shapes["pos_embed"] or width % 4:
        return None
    patches = patches_of(shapes)
    for down in (side for side in range(1, patches + 1) if patches % side == 0):
        across = patches // down
        table = sincos_positions(width, (down, across))
        if (positions.float() - table).norm() < _FAR * table.norm():
            return down * patch, across * patch
    return None


def square_size(shapes: Shapes) -> Size | None:
    """The square with that many positions, if there is one."""
    side = math.isqrt(patches_of(shapes))
    pixels = side * _patch(shapes)
    return (pixels, pixels) if side * side == patches_of(shapes) else None


def given_size(checkpoint: Checkpoint, value: Any) -> Size:
    """What the user says. Raises CheckpointError where the file has not as many positions."""
    size, flag = as_size(value), checkpoint.hints.to_set("input_size")
    if size is None:
        raise CheckpointError(f"{flag} takes a side, or height and width, not {value}")
    patch, there = _patch(checkpoint.shapes), patches_of(checkpoint.shapes)
    if not _fits(size, checkpoint.shapes):
        raise CheckpointError(
            f"{checkpoint.path} has positions for {there} patches, {flag} {in_words(size)} has "
            f"{size[0] / patch * (size[1] / patch):.4g} of {patch} x {patch} pixels"
        )
    return size


def as_size(value: Any) -> Size | None:
    """A side, or height and width, as both; None for anything else."""
    sides = (value,) if isinstance(value, int) else tuple(value or ())
    whole = all(isinstance(side, int) and side > 0 for side in sides)
    return (sides * 2)[:2] if whole and len(sides) in (1, 2) else None


def in_words(size: Size) -> str:
    """As a flag takes it: one number for a square."""
    return " ".join(map(str, size[:1] if size[0] == size[1] else size))


def no_square(checkpoint: Checkpoint) -> CheckpointError:
    """What to say where nothing tells the size."""
    there = patches_of(checkpoint.shapes)
    square = math.isqrt(there + 1) ** 2 == there + 1
    alone = f"; {there + 1} of patches alone (timm's no_embed_class) are none of MAE's" * square
    return CheckpointError(
        f"{checkpoint.path}: its positions are for {there} patches, which is no square, and "
        f"nothing tells how they lie: give {checkpoint.hints.to_set('input_size')}, height and "
        f"width in pixels{alone}"
    )


def _fits(size: Size, shapes: Shapes) -> bool:
    patch = _patch(shapes)
    whole = not (size[0] % patch or size[1] % patch)
    return whole and size[0] // patch * (size[1] // patch) == patches_of(shapes)


def _patch(shapes: Shapes) -> int:
    return shapes["patch_embed.proj.weight"][-1]
