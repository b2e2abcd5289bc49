"""Features of all images, step by step: each process computes its share, the main one gets all.

B = images of a process in a step, N = all images, T = tokens, D = encoder width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.engine.settings import Precision
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.feature_files.row_file import Column
from fastimae.evaluate.features import layer_latents, pooled
from fastimae.evaluate.images import Images
from fastimae.evaluate.options.base import Kept
from fastimae.models import MaskedAutoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """What of an encoder is kept, and how it is computed."""

    model: MaskedAutoencoder
    layers: Sequence[int]
    """Numbers of blocks, from 0."""
    pool: Kept
    dtype: str
    precision: Precision

    def names(self) -> list[str]:
        """Return the names of the layers' tensors: `features` of a single one, else `layer_N`."""
        several = len(self.layers) > 1
        return [f"layer_{layer}" for layer in self.layers] if several else ["features"]

    def columns(self) -> dict[str, Column]:
        """Return the type and the shape of an image's features, by name."""
        _, tokens, width = self.model.pos_embed.shape
        shape = (tokens, width) if self.pool == "tokens" else (width,)
        return {name: Column(self.dtype, shape) for name in self.names()}

    def features(self, images: Tensor) -> list[Tensor]:
        """Compute each layer's features, [B, D] or [B, T, D], in `dtype`. images: [B, H, W, C]."""
        dtype = getattr(torch, self.dtype)
        found = layer_latents(self.model, images, self.layers, self.precision)
        return [pooled(self.model, tokens, self.pool).to(dtype) for tokens in found]


class Step(NamedTuple):
    """What all processes have computed in a step."""

    images: int
    """How many of the images are done with it, broken ones included."""
    index: NDArray[np.int64]
    """Positions of those that could be read, ascending."""
    features: dict[str, NDArray]
    """[B, ...] by name."""


def steps(
    view: View, images: Images, world: World, *, batch_size: int, workers: int
) -> Iterator[Step]:
    """Yield all features, in the order of the images; to other processes than the main one empty.

    view: what is computed. In step k, process r of R has images (k R + r) B to (k R + r + 1) B of
    B = batch_size. workers: threads that decode.
    """
    total, stride = len(images), batch_size * world.size
    first = np.arange(world.rank * batch_size, total, stride)
    mine = (first[:, None] + np.arange(batch_size)).ravel()
    batches = CenterBatches(
        images, view.model.img_size, batch_size=batch_size, workers=workers,
        channels=view.model.in_chans, indices=mine[mine < total],
    )  # fmt: skip
    own = batches.with_positions()
    for start in range(0, total, stride):
        pixels, index = next(own, (torch.empty(0), np.empty(0, np.int64)))
        rows = view.features(pixels.to(world.device)) if len(index) else None
        every, features = _of_all(view, world, torch.from_numpy(index), rows, batch_size)
        yield Step(min(start + stride, total), every, features)


def _of_all(
    view: View, world: World, index: Tensor, rows: Sequence[Tensor] | None, most: int
) -> tuple[NDArray[np.int64], dict[str, NDArray]]:
    """Return the positions and features of all processes; they are empty unless this is the main.

    index: int64 [B], at most `most`. rows: of each layer [B, ...]; None if B is 0.
    """
    if rows is None:
        rows = [
            torch.empty(0, *column.shape, dtype=getattr(torch, column.dtype), device=world.device)
            for column in view.columns().values()
        ]
    parts = [world.all(_padded(index.to(world.device), most, -1)) if world.size > 1 else [index]]
    parts += [world.all(_padded(each, most, 0)) if world.size > 1 else [each] for each in rows]
    if not world.is_main:
        return np.empty(0, np.int64), {}
    indices, *features = (torch.cat(part).cpu().numpy() for part in parts)
    there = indices >= 0
    return indices[there], {
        name: each[there] for name, each in zip(view.names(), features, strict=True)
    }


def _padded(rows: Tensor, most: int, value: int) -> Tensor:
    """Append rows of `value` up to `most`."""
    return torch.cat([rows, rows.new_full((most - len(rows), *rows.shape[1:]), value)])
