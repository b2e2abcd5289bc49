"""A look at some images before a run, and what users should know of them: that they have more than
8 bits, or that the windows that are asked for do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.crops import Crops
from fastimae.loaders.depth import about_depth
from fastimae.loaders.epoch_steps import spread
from fastimae.loaders.pixels import depth_of
from fastimae.log import log

LOOKED_AT = 32
"""Image files that are opened."""
_DECODED = 8
"""Of those of more than 8 bits, to see how many they use."""
_SIZES = 1000
"""Of those that a .beton's table tells."""
_KEYS = 8
"""Windows drawn for each size."""
_MOST = 0.5


class Survey(NamedTuple):
    """What some images of a data set are like."""

    heights: NDArray[np.int64]
    """[n], in pixels."""
    widths: NDArray[np.int64]
    """[n]"""
    depths: Counter[str]
    """Of those of more than 8 bits, as far as they were decoded: see `pixels.depth_of`."""


def survey_files(open_image: Callable[[int], Image.Image], count: int) -> Survey:
    """Look at a few of `count` images, spread evenly; broken ones are left out."""
    sizes, depths = [], Counter()
    for index in spread(count, LOOKED_AT):
        try:
            image = open_image(index)
            sizes.append(image.size)
            depth = depth_of(image) if depths.total() < _DECODED else ""
        except Exception:  # whoever shows it says what is wrong with it
            continue
        depths.update([depth] if depth else [])
    widths, heights = np.array(sizes, np.int64).reshape(-1, 2).T
    return Survey(heights, widths, depths)


def survey_sizes(heights: NDArray, widths: NDArray) -> Survey:
    """Of images of 8 bits whose sizes are known."""
    some = spread(len(heights), _SIZES)
    return Survey(heights[some].astype(np.int64), widths[some].astype(np.int64), Counter())


def say_depth(name: str, survey: Survey) -> None:
    """Log that only 8 bits are kept, and warn where these are few."""
    kept, *hints = about_depth(survey.depths) or [""]
    if kept:
        log.info("%s: of %d images looked at, %s", name, len(survey.heights), kept)
    for hint in hints:
        log.warning("%s: %s", name, hint)


def say_windows(name: str, survey: Survey, crops: Crops) -> None:
    """Warn where most windows fall back to the middle of the image."""
    heights, widths = (np.repeat(sides, _KEYS) for sides in (survey.heights, survey.widths))
    if not crops.random or not len(heights):
        return
    share = crops.fall_back(np.arange(len(heights)), heights, widths).mean()
    if share > _MOST:
        log.warning(
            "%s: %.0f %% of the random windows do not fit in images such as %d x %d (height x "
            "width), whose middle is shown instead: --crop_ratio LOW HIGH (now %.3g %.3g, relative "
            "to the --input_size %d x %d) takes others, --crop none the whole image",
            name, 100 * share, *np.median([heights, widths], axis=1), *crops.ratio, *crops.size,
        )  # fmt: skip
