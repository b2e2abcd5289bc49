"""What all figures share: matplotlib without a display, colours, files written whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from fastimae.folders import replacing

COLORS = tuple(plt.get_cmap("tab10").colors)
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": "small",
}


@contextlib.contextmanager
def plain_style() -> Iterator[None]:
    """Figures made inside have light grids and no boxes."""
    with plt.rc_context(STYLE):
        yield


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a PNG file, whole or not at all, and close the figure."""
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=dpi)
    plt.close(figure)
