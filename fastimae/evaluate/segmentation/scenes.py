"""Images with masks, for training and testing a segmentation model.

N = scenes, H, W = height and width.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from fastimae.cpus import worker_count
from fastimae.evaluate.options.segment import Layout, SegmentOptions
from fastimae.evaluate.segmentation.class_names import MOST, numbered, read_names
from fastimae.evaluate.segmentation.layouts import Place, Split, find_place
from fastimae.evaluate.segmentation.masks import IGNORE, class_numbers, read_values
from fastimae.evaluate.segmentation.pairs import Pairs, find_pairs
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import ImageLocation, SkipImage
from fastimae.loaders.images.decode import errors_skip
from fastimae.loaders.images.limits import open_image
from fastimae.loaders.images.pixels import eight_bits
from fastimae.loaders.order.epoch_steps import SAMPLED, digest_of, evenly_spaced
from fastimae.loaders.sources.describe import in_short
from fastimae.log import log

_ORIENTATION = 0x0112
"""The EXIF tag."""
_TURNS = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The values that exchange width and height, and how the image is turned then."""


class Scenes(Dataset[tuple[Image.Image, NDArray[np.uint8]]]):
    """Images with masks of class numbers. Picklable, for worker processes."""

    classes: list[str]
    """The name of each class."""
    source: Path
    """The folder of the images."""
    kind: str
    """What the data set was recognised as, in words."""

    def __init__(self, place: Place, pairs: Pairs, classes: list[str]) -> None:
        """Describe the scenes of `place`, whose files are `pairs`. classes: the name of each."""
        self.place, self.pairs, self.classes = place, pairs, classes
        self.source, self.kind = place.images, place.layout

    def __len__(self) -> int:
        return len(self.pairs.names)

    def __getitem__(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        return self.read(index)

    def name(self, index: int) -> str:
        """Return the name of scene `index`: that of its files, without extension."""
        return self.pairs.names[index]

    def read(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        """Return (image in RGB, mask uint8 [H, W]) of scene `index`.

        The mask has numbers of classes, or `IGNORE`. Pixels are decoded as in pre-training, as they
        are stored; only if the mask has the size of the image as EXIF turns it, that is turned.
        Raises SkipImage for a broken file and an image over --max_pixels, and DataError if image
        and mask do not fit each other, or the mask does not fit the classes.
        """
        image_path, mask_path = self.pairs.images[index], self.pairs.masks[index]
        values = read_values(mask_path)
        image = _read_image(image_path, (values.shape[1], values.shape[0]))
        if image.size != (values.shape[1], values.shape[0]):
            raise DataError(
                f"{image_path} has {image.width} x {image.height} pixels, and {mask_path} "
                f"{values.shape[1]} x {values.shape[0]}: a mask has the size of its image"
            )
        first, classes = self.place.first, len(self.classes)
        return image, class_numbers(values, mask_path, first=first, classes=classes)

    @functools.cached_property
    def digest(self) -> int:
        """Identify the scenes by names, sizes of files and the contents of some; not by place."""
        marks = [
            zlib.crc32(repr((name, _size(image), _size(mask))).encode())
            for name, image, mask in zip(self.pairs.names, self.pairs.images, self.pairs.masks,
                                         strict=True)
        ]  # fmt: skip
        meaning = repr((self.place.first, len(self.classes))).encode()
        return zlib.crc32(meaning, digest_of(np.array(marks, np.int64), self._bytes))

    @property
    def view_digest(self) -> int:
        """`digest`: what identifies a test on the scenes."""
        return self.digest

    def _bytes(self, index: int) -> bytes:
        """Read the files of a scene."""
        paths = self.pairs.images[index], self.pairs.masks[index]
        return b"".join(ImageLocation(path).read() for path in paths)


def open_scenes(
    root: Path,
    split: Split,
    layout: Layout = SegmentOptions.layout,
    classes: Path | None = None,
    flag: str = "--data_path",
) -> Scenes:
    """Open the scenes of a split of the data set at `root`, and log a line that describes them.

    layout: see `find_place`. classes: a text file, a name a line; without it, there are those in
    classes.txt, those of VOC or ADE20K, or as many as the training masks have numbers.
    flag: the flag that gave `root`, for messages. Raises DataError if there are none, and for what
    16 of them, evenly spaced, show: masks of other sizes, colours, or more classes.
    """
    place = find_place(root, split, layout, flag)
    pairs = find_pairs(place)
    names = _known_names(place, classes) or numbered(_count_classes(root, layout, pairs))
    scenes = Scenes(place, pairs, names)
    for index in evenly_spaced(len(scenes), SAMPLED):
        with contextlib.suppress(SkipImage):  # it is reported when it comes up
            scenes.read(index)
    log.info("%s: %s: %d images with masks, %d classes (%s)", scenes.source, scenes.kind,
             len(scenes), len(names), in_short(names))  # fmt: skip
    return scenes


def _known_names(place: Place, classes: Path | None) -> list[str]:
    """Return the names of classes that a file or the layout has; [] if there are none."""
    if classes is not None:
        return read_names(classes, f"--classes {classes}")
    written = place.home / "classes.txt"
    return read_names(written, str(written)) if written.is_file() else place.names or []


def _count_classes(root: Path, layout: Layout, pairs: Pairs) -> int:
    """Return how many classes the numbers in the training masks need.

    pairs: those of the split, used if there is no training split. Raises DataError if there is only
    one class, or more than masks can have.
    """
    with contextlib.suppress(DataError):  # only val may be there, to test on
        pairs = find_pairs(find_place(root, "train", layout))
    count = 1 + _highest(tuple(pairs.masks))
    where = Path(pairs.masks[0]).parent
    if count < 2:
        raise DataError(
            f"{where}: masks have no number but 0 and {IGNORE}, and {IGNORE} marks pixels that do "
            "not count: number the classes from 0 up, such as 1, not 255, for a foreground"
        )
    if count > MOST:
        raise DataError(f"{where}: masks have numbers up to {count - 1}: at most {MOST - 1} fits")
    return count


@functools.lru_cache(2)
def _highest(masks: tuple[str, ...]) -> int:
    """Return the highest number in masks, but for `IGNORE`; broken files do not count."""
    with ThreadPoolExecutor(worker_count(None)) as pool:
        return max(pool.map(_highest_in, masks))


def _highest_in(path: str) -> int:
    try:
        values = read_values(path)
    except SkipImage:
        return 0
    return int(values[values != IGNORE].max(initial=0))


def _read_image(path: str, size: tuple[int, int]) -> Image.Image:
    """Read an image in RGB. size: (width, height) of its mask, which decides if EXIF turns it."""
    with errors_skip():
        image = open_image(ImageLocation(path).read())
        pixels = eight_bits(image, "RGB")
        fits = pixels.size == size or pixels.size[::-1] != size
        turn = None if fits else _TURNS.get(image.getexif().get(_ORIENTATION))
    return pixels if turn is None else pixels.transpose(turn)


def _size(path: str) -> int:
    """Return the size of a file in bytes; -1 for one that cannot be read."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
