"""Crop windows: torchvision's RandomResizedCrop, drawn from a sample's key.

Unlike in torchvision, the bounds of a window's width / height are relative to the target size, so
that a window for an oblong target is oblong too. For square targets there is no difference.

B = images.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.errors import SettingError
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.order.philox import DrawStream, philox, uniform
from fastimae.settings import RGB, Expert, Idle, PositiveFloat, Settings

TRIES = 10
RATIO = (3 / 4, 4 / 3)
"""Bounds of a window's width / height, relative to the target's."""
_BLOCKS = 6
"""Blocks of four random words: five for (area, ratio) of ten tries, one for (top, left, flip)."""


@dataclasses.dataclass(kw_only=True)
class CropSettings(Settings):
    """How training images are cropped."""

    error = SettingError

    min_crop: PositiveFloat = 0.2
    """Smallest share of an image's area that a random crop takes."""
    max_crop: Expert[PositiveFloat] = 1.0
    """Largest share of an image's area that a random crop takes."""
    crop: Literal["random", "none"] = "random"
    """none: resize the whole image to --input_size."""
    crop_ratio: Expert[tuple[float, float]] = RATIO
    """Smallest and largest width / height of a random crop, relative to --input_size's."""
    hflip: bool = True
    """Flip half of the crops horizontally."""

    def check(self) -> None:
        """Check the fields, see `Settings`."""
        super().check()
        self.require(
            self.min_crop <= self.max_crop <= 1,
            f"--min_crop {self.min_crop:g} and --max_crop {self.max_crop:g} must satisfy "
            "0 < min <= max <= 1",
        )
        check_ratio(self.crop_ratio)

    def idle(self) -> Iterator[Idle]:
        """List the settings without effect, see `Settings`."""
        yield from super().idle()
        of_windows = ("min_crop", "max_crop", "crop_ratio")
        yield Idle(self.crop == "none", of_windows, "with --crop none")


def check_ratio(ratio: tuple[float, float]) -> None:
    """Raise SettingError unless these are valid bounds of a width / height."""
    low, high = ratio
    if not 0 < low <= high < math.inf:
        bounds = f"--crop_ratio {low:.6g} {high:.6g}"
        raise SettingError(f"{bounds} must satisfy 0 < LOW <= HIGH, both finite")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops:
    """The crop of every sample: a random window or the full image, resized to one size."""

    size: tuple[int, int]
    """(height, width) in pixels after the resize."""
    channels: int = 3
    """3 for RGB, 1 for gray, or those of the images."""
    dtype: np.dtype = RGB8.dtype
    """The type of their values: uint8 or uint16."""
    scale: tuple[float, float] = (CropSettings.min_crop, CropSettings.max_crop)
    """Smallest and largest share of the image's area in the window."""
    ratio: tuple[float, float] = RATIO
    """Bounds of the window's width / height, relative to that of `size`."""
    random: bool = True
    """Random windows; else the full image is used."""
    hflip: bool = CropSettings.hflip
    """Mirror half of the samples."""

    @property
    def form(self) -> PixelForm:
        """That of the crops."""
        return PixelForm(self.channels, self.dtype)

    @property
    def of_ordinary(self) -> bool:
        """Whether they are crops of ordinary images, as they are or as gray."""
        return self.dtype == np.uint8 and self.channels in (1, RGB)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (*self.size, self.channels)

    def empty(self, count: int) -> NDArray[np.uint8 | np.uint16]:
        """Return room for as many crops, [count, H, W, C]."""
        return np.empty((count, *self.shape), self.dtype)

    def draw(
        self, key: NDArray[np.int64], heights: NDArray, widths: NDArray
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Draw the window and mirror flag of each image, in the form of `draw_windows`."""
        windows, flip = draw_windows(key, heights, widths, self.scale, self.bounds)
        if not self.random:
            windows[:, :2] = 0
            windows[:, 2:] = np.stack([heights, widths], axis=1)
        return windows, flip & self.hflip

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of a window's width / height in pixels."""
        return relative_to(self.size, self.ratio)

    def falls_back(
        self, key: NDArray[np.int64], heights: NDArray, widths: NDArray
    ) -> NDArray[np.bool_]:
        """Return, for each image, whether no try fits, so its middle is used: bool [B]."""
        tries = _draws(key)[:, : 2 * TRIES].reshape(-1, TRIES, 2)
        return _window_sizes(tries, heights, widths, self.scale, self.bounds)[0] == 0


def relative_to(size: tuple[int, int], ratio: tuple[float, float]) -> tuple[float, float]:
    """Scale bounds of width / height by the shape (height, width) of the target."""
    shape = size[1] / size[0]
    return ratio[0] * shape, ratio[1] * shape


def draw_windows(
    key: NDArray[np.int64],
    heights: NDArray,
    widths: NDArray,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw a crop window and a mirror flag for each of B images.

    key: int64 [B]; heights, widths: [B], in pixels; ratio: bounds of width / height.
    Returns windows int64 [B, 4] as (top, left, height, width), and flip bool [B].
    """
    draws = _draws(key)
    tries = draws[:, : 2 * TRIES].reshape(-1, TRIES, 2)
    top, left, flip = draws[:, 2 * TRIES : 2 * TRIES + 3].T

    heights, widths = np.asarray(heights, np.int64), np.asarray(widths, np.int64)
    high, wide = _window_sizes(tries, heights, widths, scale, ratio)
    fallback = high == 0
    if fallback.any():
        high[fallback], wide[fallback] = _central(heights[fallback], widths[fallback], ratio)
    free_rows, free_columns = heights - high, widths - wide
    tops = np.where(fallback, free_rows // 2, (top * (free_rows + 1)).astype(np.int64))
    lefts = np.where(fallback, free_columns // 2, (left * (free_columns + 1)).astype(np.int64))
    return np.stack([tops, lefts, high, wide], axis=1), flip < 0.5


def _draws(key: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draw the uniform numbers of each key, [B, 4 x _BLOCKS]."""
    counter = np.zeros((_BLOCKS, 4), dtype=np.uint32)
    counter[:, 0] = np.arange(_BLOCKS)
    counter[:, 3] = DrawStream.CROP
    return uniform(philox(key[:, None], counter)).reshape(len(key), 4 * _BLOCKS)


def _window_sizes(
    tries: NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return heights and widths [B] of the first try that fits in the image, 0 if none does."""
    area = (heights * widths)[:, None] * (scale[0] + tries[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + tries[..., 1] * (high - low))
    # np.rint rounds halves to even, as Python's round in torchvision does.
    wide = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    tall = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (wide > 0) & (wide <= widths[:, None]) & (tall > 0) & (tall <= heights[:, None])
    rows, first = np.arange(len(fits)), fits.argmax(axis=1)
    any_fits = fits[rows, first]
    return np.where(any_fits, tall[rows, first], 0), np.where(any_fits, wide[rows, first], 0)


def _central(
    heights: NDArray[np.int64], widths: NDArray[np.int64], ratio: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return heights and widths [B] of the largest windows whose shape is within `ratio`."""
    shape = widths / heights
    tall = np.where(shape < ratio[0], np.rint(widths / ratio[0]), heights).astype(np.int64)
    wide = np.where(shape > ratio[1], np.rint(heights * ratio[1]), widths).astype(np.int64)
    return np.maximum(tall, 1), np.maximum(wide, 1)
