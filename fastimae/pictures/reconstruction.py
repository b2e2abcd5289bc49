"""The picture that training draws: images, what the model sees, and what it reconstructs.

B = images, H, W = height and width, C = channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastimae.best_effort import best_effort
from fastimae.pictures.display import Display
from fastimae.pictures.picture_table import draw_picture_table
from fastimae.pictures.plots import joined

if TYPE_CHECKING:
    from fastimae.loaders import Batch, Loader
    from fastimae.objectives.base import Objective


ROWS = 8
"""Images in a picture, one a row. Their partners in mixtures are other images."""


def draw_fixed_images(
    objective: Objective, loader: Loader, path: Path | None, display: Display
) -> Callable[[], Path | None]:
    """Return a function that draws the same images of the loader's data set each time.

    They are read when it is first called for images of that size. See `save_reconstruction`.
    """
    batch = functools.lru_cache(1)(lambda _: loader.fixed_batch(2 * ROWS))
    return lambda: save_reconstruction(objective, path, batch(loader.shape), display)


def save_reconstruction(
    objective: Objective, path: Path | None, batch: Batch, display: Display
) -> Path | None:
    """Draw the pictures of a batch that the objective makes to a PNG file, and return its path.

    path: None on processes that only compute their part. display: how to show them. Returns None if
    nothing is drawn.
    """
    pictures = objective.reconstruct(batch)
    if path is None or not pictures:
        return None
    pictures = {title: display(images[:ROWS].cpu()) for title, images in pictures.items()}
    notes = objective.picture_note, display.note(batch.images.dtype)
    with best_effort(path):
        draw_grid(pictures, path, joined(*notes))
        return path
    return None


def draw_grid(pictures: dict[str, Tensor], path: Path, note: str = "") -> None:
    """Draw images, uint8 [B, H, W, C] by title, as columns of a PNG file."""
    rows = [("", images) for images in zip(*pictures.values(), strict=True)]
    draw_picture_table(
        rows, list(pictures), path, note, cell_inches=1.7, interpolation="antialiased"
    )
