"""A sample of the images before a run, to warn of deep colour and of crop windows that never fit.

Images of more than 8 bits lose some; windows that do not fit fall back to the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.depth import depth_notes
from fastimae.loaders.images.pixels import depth_of
from fastimae.loaders.order.epoch_steps import evenly_spaced
from fastimae.log import log

SAMPLED_FILES = 32
"""Image files that are opened."""
_DECODED = 8
"""Images of more than 8 bits that are decoded, to see how many bits they use."""
_SAMPLED_SIZES = 1000
"""Sizes taken from the table of a .beton file."""
_WINDOWS_PER_SIZE = 8
_WARN_ABOVE = 0.5
"""Share of windows that do not fit, above which a warning is logged."""


class Survey(NamedTuple):
    """Sizes and depths of some images of a data set."""

    heights: NDArray[np.int64]
    """[n], in pixels."""
    widths: NDArray[np.int64]
    """[n]"""
    depths: Counter[str]
    """Images of more than 8 bits, by `pixels.depth_of`; of the few that were decoded."""


def survey_files(open_image: Callable[[int], Image.Image], count: int) -> Survey:
    """Open a few of `count` images, evenly spaced; broken ones are left out."""
    sizes, depths = [], Counter()
    for index in evenly_spaced(count, SAMPLED_FILES):
        try:
            image = open_image(index)
            sizes.append(image.size)
            depth = depth_of(image) if depths.total() < _DECODED else ""
        except Exception:  # the loader that uses it will report it
            continue
        depths.update([depth] if depth else [])
    widths, heights = np.array(sizes, np.int64).reshape(-1, 2).T
    return Survey(heights, widths, depths)


def survey_sizes(heights: NDArray, widths: NDArray) -> Survey:
    """Survey 8-bit images whose sizes are known."""
    some = evenly_spaced(len(heights), _SAMPLED_SIZES)
    return Survey(heights[some].astype(np.int64), widths[some].astype(np.int64), Counter())


def log_depth(name: str, survey: Survey) -> None:
    """Log that only 8 bits are kept, and warn if most of them are zero."""
    kept, *hints = depth_notes(survey.depths) or [""]
    if kept:
        log.info("%s: of %d images sampled, %s", name, len(survey.heights), kept)
    for hint in hints:
        log.warning("%s: %s", name, hint)


def warn_about_windows(
    name: str, survey: Survey, crops: Crops, instead: str = "--crop none takes the full image"
) -> None:
    """Warn if most crop windows fall back to the middle of the image. instead: other advice."""
    sides = survey.heights, survey.widths
    heights, widths = (np.repeat(lengths, _WINDOWS_PER_SIZE) for lengths in sides)
    if not crops.random or not len(heights):
        return
    share = crops.falls_back(np.arange(len(heights)), heights, widths).mean()
    if share > _WARN_ABOVE:
        log.warning(
            "%s: %.0f %% of the random windows do not fit in images such as %d x %d (height x "
            "width), so their middle is used: --crop_ratio LOW HIGH (now %.3g %.3g, relative to "
            "the --input_size %d x %d) allows other shapes, %s",
            name, 100 * share, *np.median([heights, widths], axis=1), *crops.ratio, *crops.size,
            instead,
        )  # fmt: skip
