"""Single images with masks, and the error that opening them as scenes fails with."""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy.typing import NDArray
from PIL import Image
from shape_scenes import save_image, save_mask

from fastimae.evaluate.segmentation.scenes import open_scenes
from fastimae.loaders.errors import DataError


def write_pair(
    root: Path,
    mask: NDArray,
    *,
    image: Image.Image | None = None,
    name: str = "a",
    split: str = "train",
    **how: object,
) -> Path:
    """Write an image, black unless it is given, and its mask as folders; return `root`.

    how: options of Pillow's JPEG.
    """
    image = image or Image.new("RGB", mask.shape[::-1])
    save_image(image, root / split / "images" / f"{name}.jpg", **how)
    save_mask(mask, root / split / "masks" / f"{name}.png")
    return root


def refused(root: Path, split: str = "train", **how: object) -> str:
    """Return the one line that opening the scenes fails with, `root` in it written as ROOT."""
    with pytest.raises(DataError) as caught:
        open_scenes(root, split, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")
