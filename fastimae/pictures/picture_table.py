"""Pictures in rows and columns with titles, as one PNG file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from fastimae.pictures.plots import plt, save_figure

CHARACTER_INCHES = 0.07
"""About the width of a character of 8 points."""
TITLE_CHARACTERS = 24
"""The most in a line of a row's title that does not fit beside its pictures upright."""


def draw_picture_table(
    rows: Sequence[tuple[str, Sequence[Tensor | None]]],
    columns: Sequence[str],
    path: Path,
    note: str = "",
    cell_inches: float = 1.1,
    interpolation: str = "nearest",
) -> None:
    """Draw a title and the pictures of each row; None leaves a cell empty.

    Pictures are uint8 [H, W, C]. Titles of rows stand upright, unless one is longer than its
    pictures are high: then all lie, in several lines. columns: a title each. note: text below the
    table. interpolation: matplotlib's; by default pixels are not mixed.
    """
    some = next(picture for _, pictures in rows for picture in pictures if picture is not None)
    height = cell_inches * some.shape[0] / some.shape[1]
    titles = [title for title, _ in rows]
    margin, how = 0.5 if any(titles) else 0.0, {}
    if max(map(len, titles)) * CHARACTER_INCHES > height:
        titles = [textwrap.fill(title, TITLE_CHARACTERS) for title in titles]
        widest = max(len(line) for title in titles for line in title.splitlines())
        margin, how = CHARACTER_INCHES * widest, {"rotation": 0, "ha": "right", "va": "center"}
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False, layout="constrained",
        figsize=(cell_inches * len(columns) + margin, height * len(rows) + 0.6),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(within(title, cell_inches), fontsize=8)
    for line, title, (_, pictures) in zip(axes, titles, rows, strict=True):
        line[0].set_ylabel(title, fontsize=8, **how)
        for axis, picture in zip(line, pictures, strict=True):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if picture is None:
                axis.set_box_aspect(some.shape[0] / some.shape[1])
            else:
                axis.imshow(displayable(picture), interpolation=interpolation)
    figure.supxlabel(note, fontsize=7, wrap=True)
    save_figure(figure, path)


def within(title: str, inches: float) -> str:
    """Break the lines of a title of 8 points that are wider than `inches`."""
    characters = int(inches / CHARACTER_INCHES)
    return "\n".join(textwrap.fill(line, characters) for line in title.split("\n"))


def displayable(picture: Tensor) -> np.ndarray:
    """Return uint8 [H, W, 3] for [H, W, C]: RGB unchanged, else the first channel in gray."""
    picture = picture.cpu()
    return (picture if picture.shape[-1] == 3 else picture[..., :1].expand(-1, -1, 3)).numpy()
