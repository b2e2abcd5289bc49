"""Pictures in rows and columns with titles, as one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fastimae.evaluate.figures.plots import plt, save_figure

CELL_INCHES = 1.1


def draw_picture_table(
    rows: Sequence[tuple[str, Sequence[Tensor | None]]],
    columns: Sequence[str],
    path: Path,
    note: str = "",
) -> None:
    """rows: (title, pictures uint8 [H, W, C], or None for an empty cell) of each row.

    columns: title of each column. note: below the table.
    """
    some = next(picture for _, pictures in rows for picture in pictures if picture is not None)
    height = CELL_INCHES * some.shape[0] / some.shape[1]
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False, layout="constrained",
        figsize=(CELL_INCHES * len(columns) + 0.5, height * len(rows) + 0.6),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=8)
    for line, (title, pictures) in zip(axes, rows, strict=True):
        line[0].set_ylabel(title, fontsize=8)
        for axis, picture in zip(line, pictures, strict=True):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if picture is not None:
                axis.imshow(displayable(picture), interpolation="nearest")
    figure.supxlabel(note, fontsize=7)
    save_figure(figure, path)


def displayable(picture: Tensor):
    """uint8 [H, W, 3] as an array: RGB as it is, else the first channel in gray."""
    picture = picture.cpu()
    return (picture if picture.shape[-1] == 3 else picture[..., :1].expand(-1, -1, 3)).numpy()
