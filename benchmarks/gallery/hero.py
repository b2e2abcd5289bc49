"""The README's picture: some mixtures of an i-MAE's reconstruction.png, for any background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

SOURCE = "runs/imae/reconstruction.png"
TARGET = Path("docs/images/mixture.png")
ROWS = (0, 2, 7)
"""Rows of the source to show: shapes that differ."""
TITLES = (
    *("image 1", "image 2", "their mixture", "what i-MAE sees"),
    *("image 1, recovered", "image 2, recovered"),
)
GRAY = "#7d8590"
"""Readable on white and on black."""
SMALLEST = 50
"""Pixels: lines of text in the source are lower than this, pictures higher."""


def draw(source: Path, target: Path, command: str) -> None:
    """Cut the pictures out of a file that training drew, and lay some rows out anew."""
    cells = cut(np.asarray(Image.open(source).convert("RGB")))
    figure = Figure(figsize=(9, 4.7), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = figure.subplots(len(ROWS), len(TITLES))
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, fontsize=10, color=GRAY)
    for line, row in zip(axes, ROWS, strict=True):
        for axis, cell in zip(line, cells[row], strict=True):
            axis.imshow(cell, interpolation="antialiased")
            axis.axis("off")
    metadata = {"Command": command, "Software": None}
    figure.savefig(target, dpi=110, transparent=True, metadata=metadata)


def cut(grid: np.ndarray) -> list[list[np.ndarray]]:
    """Return the pictures of a grid with white gaps, uint8 [H, W, 3] each, row by row."""
    ink = (grid < 255).any(-1)
    rows = runs(ink.any(1))
    columns = runs(ink[slice(*rows[0])].any(0))
    return [[grid[slice(*row), slice(*column)] for column in columns] for row in rows]


def runs(marked: np.ndarray) -> list[tuple[int, int]]:
    """Return begin and end of each long run of True in a line."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    pairs = zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True)
    return [(begin, end) for begin, end in pairs if end - begin > SMALLEST]
