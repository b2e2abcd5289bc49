"""Pictures of what the model reconstructs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from fastimae.evaluate.figures.picture_table import displayable
from fastimae.evaluate.figures.plots import plt, save_figure
from fastimae.loaders.base import Batch
from fastimae.objectives.base import Objective


def first_pairs(batch: Batch, count: int) -> Batch:
    """The first `count` rows of a batch and their partners, as a batch of their own."""
    count = min(count, len(batch.images))
    rows = torch.cat([torch.arange(count, device=batch.partner.device), batch.partner[:count]])
    picked = {
        field.name: getattr(batch, field.name)[rows]
        for field in dataclasses.fields(batch)
        if field.name not in ("partner", "step_key")
    }
    picked["partner"] = torch.arange(2 * count, device=rows.device).roll(count)
    return dataclasses.replace(batch, **picked)


def save_reconstruction(
    objective: Objective, path: Path | None, batch: Batch, rows: int = 8
) -> None:
    """Draw the objective's pictures of a batch, if it has any, as a grid, one image a row, into a
    PNG file.

    batch: `fastimae.loaders.Batch`. path: None to only do this process's part of the computation.
    """
    pictures = objective.reconstruct(first_pairs(batch, rows))
    if path is None or not pictures:
        return
    pictures = {title: images[:rows].cpu() for title, images in pictures.items()}
    draw_grid(pictures, path, objective.picture_note)


def draw_grid(pictures: dict[str, Tensor], path: Path, note: str = "") -> None:
    """Write titled columns of images, uint8 [B, H, W, C] each, to a PNG file, atomically."""
    rows = len(next(iter(pictures.values())))
    height, width = next(iter(pictures.values())).shape[1:3]
    figure, axes = plt.subplots(
        rows, len(pictures), squeeze=False, layout="constrained",
        figsize=(1.7 * len(pictures), 1.7 * rows * height / width + 0.6),
    )  # fmt: skip
    for column, (title, images) in enumerate(pictures.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, image in enumerate(images):
            axes[row, column].imshow(displayable(image))
            axes[row, column].axis("off")
    figure.supxlabel(note, fontsize=7)
    save_figure(figure, path)
