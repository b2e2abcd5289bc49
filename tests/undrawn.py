"""Figures that are made but not drawn, for tests of the numbers beside them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image


def save_pixel(figure: Figure, path: Path, **_: object) -> None:
    """Save one gray pixel in place of a figure."""
    Image.new("L", (1, 1), 128).save(path, "PNG")


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Save a pixel for each figure: laying it out and drawing it takes a second.

    Also a decorator of tests. Each figure needs a test without it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw_without_rendering", lambda _: None)
        patch.setattr(ConstrainedLayoutEngine, "execute", lambda *_: None)
        patch.setattr(Figure, "savefig", save_pixel)
        yield
