"""Views of a scene: random scale, crop, flip and colours for training, the whole for testing.

The training view is the field's (MMSegmentation's defaults): a scale of 0.5 to 2, a crop in which
no class has more than 75 %, a flip, and photometric distortion.

H, W = height and width, C = channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.evaluate.segmentation.colours import distort
from fastimae.evaluate.segmentation.masks import IGNORE
from fastimae.loaders.images.pixels import MODES, converted

TRIES = 10
"""Crops that are tried for one that no class dominates; the last is taken."""
MOST_OF_A_CLASS = 0.75
"""The largest share of a crop's counted pixels that one class should have."""

View = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Normalised pixels, [C, H, W], and the mask, [H, W]."""


class SegmentTransform:
    """Makes a random view of a scene, which is a function of (seed, epoch, index)."""

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        *,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        short_side: int | None = None,
        flip: float = 0.5,
        jitter: bool = True,
        most: float = MOST_OF_A_CLASS,
    ) -> None:
        """size: (height, width) of views. scale: the range of the random factor on the short side.

        mean, std: of each channel, in 0..1; 3 channels, or 1 for gray. seed: of all views.
        short_side: of images before the factor; None: that of `size`. flip: the probability of a
        mirrored view. jitter: whether to distort colours. most: see `MOST_OF_A_CLASS`; 1: any crop.
        Raises ValueError for other numbers of channels.
        """
        self.size, self.scale, self.seed = size, scale, seed
        self.normalise = Normalise(mean, std)
        self.short_side, self.flip, self.jitter = short_side or min(size), flip, jitter
        self.most = most

    def __call__(self, image: Image.Image, mask: NDArray[np.uint8], epoch: int, index: int) -> View:
        """Return the view of scene `index` in `epoch`: float32 [C, H, W], and uint8 [H, W].

        image: in RGB. mask: uint8, of its size. Images are resized bicubic and antialiased, masks
        to the nearest pixel. A scaled image that is smaller than the view is padded below and on
        the right, with 0 (the mean) and 255 (`IGNORE`).
        """
        rng = generator(self.seed, epoch, index)
        factor = rng.uniform(*self.scale) * self.short_side / min(image.size)
        scaled = scaled_size(mask.shape, factor)
        window, part = self._window(rng, mask, scaled)
        crop = cut(image, scaled, window)
        flips = rng.random() < self.flip
        view, labels = self.normalise(distort(crop, rng) if self.jitter else crop), part
        if flips:
            view, labels = view[..., ::-1], labels[:, ::-1]
        return padded(view, self.size, 0), padded(labels, self.size, IGNORE)

    def _window(
        self, rng: np.random.Generator, mask: NDArray[np.uint8], scaled: tuple[int, int]
    ) -> tuple[tuple[int, int, int, int], NDArray[np.uint8]]:
        """Draw a window (top, left, height, width) of the scaled scene; return its mask, too."""
        height, width = (min(pair) for pair in zip(self.size, scaled, strict=True))
        for _ in range(TRIES):
            top = int(rng.integers(scaled[0] - height + 1))
            left = int(rng.integers(scaled[1] - width + 1))
            part = nearest(mask, scaled, (top, left, height, width))
            if largest_share(part) <= self.most:
                break
        return (top, left, height, width), part


class Normalise:
    """Turns images in RGB to float32 [C, H, W] by mean and deviation of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: in 0..1, of 3 channels, or 1 for gray, else ValueError is raised."""
        if len(mean) not in MODES or len(mean) != len(std):
            raise ValueError(f"scenes have 3 channels, or 1 in gray, not {len(mean)}")
        self.mode = MODES[len(mean)]
        shares = np.arange(256) / 255
        self._tables = [
            ((shares - center) / deviation).astype(np.float32)
            for center, deviation in zip(mean, std, strict=True)
        ]

    def __call__(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the pixels of `image` normalised, float32 [C, H, W]; as gray if C is 1."""
        values = np.empty((len(self._tables), image.height, image.width), np.float32)
        for table, band, out in zip(
            self._tables, converted(image, self.mode).split(), values, strict=True
        ):
            np.take(table, np.asarray(band), out=out, mode="clip")
        return values


def generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Return the random numbers of sample `index` in `epoch`, by Philox."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, index))))


def whole_view(
    image: Image.Image, normalise: Normalise, short_side: int | None = None
) -> NDArray[np.float32]:
    """Return the whole image for testing, float32 [C, H, W], with `normalise` applied.

    short_side: to resize it to, with its shape kept; None: as it is. The mask stays as it is:
    predictions are compared at its size.
    """
    if short_side is not None:
        size = scaled_size(image.size[::-1], short_side / min(image.size))
        image = cut(image, size, (0, 0, *size))
    return normalise(image)


def scaled_size(size: Sequence[int], factor: float) -> tuple[int, int]:
    """Return (height, width) times a factor, rounded, at least 1."""
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def cut(
    image: Image.Image, scaled: tuple[int, int], window: tuple[int, int, int, int]
) -> Image.Image:
    """Return a window (top, left, height, width) of the image resized to `scaled`.

    Only the window is computed. scaled: (height, width).
    """
    top, left, height, width = window
    down, right = image.height / scaled[0], image.width / scaled[1]
    box = left * right, top * down, (left + width) * right, (top + height) * down
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))  # rounding
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def nearest(
    mask: NDArray[np.uint8], scaled: tuple[int, int], window: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """Return a window (top, left, height, width) of the mask, [H, W], resized to `scaled`."""
    top, left, height, width = window
    rows = _sources(top, height, mask.shape[0], scaled[0])
    return mask[rows[:, None], _sources(left, width, mask.shape[1], scaled[1])]


def _sources(start: int, count: int, before: int, after: int) -> NDArray[np.int64]:
    """Return the pixel of `before` that each of `count` pixels from `start` of `after` is."""
    twice = 2 * np.arange(start, start + count) + 1  # centers of pixels, exact in whole numbers
    return twice * before // (2 * after)


def largest_share(mask: NDArray[np.uint8]) -> float:
    """Return the share of the most frequent class among the pixels that count; 1.0 if none do."""
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


def padded(values: NDArray, size: tuple[int, int], value: float) -> NDArray:
    """Return an array [..., H, W] padded below and on the right to `size`, contiguous."""
    missing = [full - side for full, side in zip(size, values.shape[-2:], strict=True)]
    if any(missing):
        widths = [(0, 0)] * (values.ndim - 2) + [(0, more) for more in missing]
        values = np.pad(values, widths, constant_values=value)
    return np.ascontiguousarray(values)
