"""Pictures of what the model reconstructs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from fastimae.evaluate.figures.picture_table import displayable
from fastimae.evaluate.figures.plots import plt, save_figure
from fastimae.loaders.base import Batch

LEAK_NOTE = (
    "norm_pix_loss: each predicted patch is shown with the mean and deviation of the true patch"
)


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


def save_reconstruction(objective: nn.Module, path: Path, batch: Batch, rows: int = 8) -> None:
    """Draw the objective's pictures of a batch as a grid, one image a row, into a PNG file.

    objective: has `reconstruct(batch)`, `picture_note`, `mask_ratio` and `student`.
    batch: `fastimae.loaders.Batch`.
    """
    pictures = objective.reconstruct(first_pairs(batch, rows))
    pictures = {title: images[:rows].cpu() for title, images in pictures.items()}
    note = f"mask ratio {objective.mask_ratio:g}. {objective.picture_note}"
    if objective.student.norm_pix_loss:
        note += f"\n{LEAK_NOTE}"
    draw_grid(pictures, path, note)


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
