"""Labelled images of a .beton file or a folder, for evaluation and fine-tuning.

N = images.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from fastimae.loaders import BetonReader
from fastimae.loaders.beton.image import open_sample
from fastimae.loaders.beton.native_image import NativeImage
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, BandImage, check_form
from fastimae.loaders.images.decode import errors_skip
from fastimae.loaders.images.limits import max_pixels, value_range
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.images.pixels import MODES, eight_bits
from fastimae.loaders.order.epoch_steps import Read, digest_of
from fastimae.loaders.sources.describe import data_line
from fastimae.loaders.sources.image_files import scan_folder
from fastimae.loaders.sources.imagenet import hint_for
from fastimae.loaders.sources.what_is import BETON, FOLDER, check_is, is_beton
from fastimae.log import log
from fastimae.settings import RGB


class Images(Dataset[tuple[Image.Image, int]]):
    """Labelled images: `images[i]` is (PIL image in RGB, label), or as `view` says.

    Pixels follow the rules of `loaders.images.pixels`; those of a .beton file are decoded by the
    native engine if it is built. A broken image raises SkipImage. Picklable, for worker processes.
    """

    source: Path
    """The file or folder."""
    labels: NDArray[np.int64]
    """int64 [N]; -1 for an image without a label."""
    classes: list[str] | None
    """The name of each label; None if names are not known."""
    kind: str
    """What the source was recognised as, in words."""
    advice: str
    """How to get labels for images without any, if known."""
    whole: bool = False
    """Whether evaluation resizes the whole image instead of cropping it: see `center_view`."""
    form: PixelForm
    """The channels of all of the images, and their type."""
    chosen: str = ""
    """A digest of the positions of these images in their source; "": all of them."""

    def __init__(
        self,
        source: Path,
        labels: NDArray[np.int64],
        classes: list[str] | None,
        opener: Callable[[int], AnyImage],
        fingerprint: str,
        read: Read,
        *,
        kind: str,
        identity: Callable[[], str],
        form: PixelForm = RGB8,
        advice: str = "",
        path: Callable[[int], str] | None = None,
    ) -> None:
        """Describe the images of `source`. opener: see `open`. read: returns an image's bytes.

        identity: see `identity_of`. path: returns an image's path; None if the source does not keep
        them.
        """
        self.source, self.labels, self.classes = source, labels, classes
        self.kind, self.advice, self.identity, self.path = kind, advice, identity, path
        self.form = form
        self._open, self.read, self._files = opener, read, fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of labels and of the names, sizes and times of the files; not of class names."""
        return _digest(self._files, self.labels.tobytes())

    @functools.cached_property
    def digest(self) -> int:
        """`digest_of` the labels and the contents of the images."""
        return digest_of(self.labels, self.read)

    @functools.cached_property
    def view_digest(self) -> int:
        """`digest`, and how evaluation decodes and crops the images; the same for moved files."""
        view = self.whole, max_pixels(), value_range()
        return zlib.crc32(repr(view).encode(), self.digest)

    def with_labels(self, labels: NDArray[np.int64], classes: list[str]) -> Images:
        """Return the same images with other labels, int64 [N], named by `classes`."""
        images = self._copy()
        images.labels, images.classes = labels, classes
        return images

    def at(self, indices: NDArray[np.int64]) -> Images:
        """Return the images at these positions as a data set of its own."""
        images, positions = self._copy(), np.ascontiguousarray(indices, np.int64).tobytes()
        images.labels = self.labels[indices]
        images._open = functools.partial(_one_of, indices, self._open)
        images.read = functools.partial(_one_of, indices, self.read)
        images.path = self.path and functools.partial(_one_of, indices, self.path)
        images._files = _digest(self._files, positions)
        images.identity = functools.partial(_part_of, self.identity, positions)
        images.chosen = hashlib.sha256(self.chosen.encode() + positions).hexdigest()[:16]
        return images

    def trimmed(self, border: int) -> Images:
        """Return the images without so many pixels at each edge; one that is all border is bad."""
        images = self._copy()
        images._open = functools.partial(_inside, border, self._open)
        return images

    def seen(self, *, whole: bool) -> Images:
        """Return the images to be resized `whole`, or to be cropped."""
        images = self._copy()
        images.whole = whole
        return images

    def _copy(self) -> Images:
        """Return a copy that has not computed any digest yet."""
        images = copy.copy(self)
        for digest in ("fingerprint", "digest", "view_digest"):
            images.__dict__.pop(digest, None)
        return images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = self.view(index)
        image.load()
        return image, int(self.labels[index])

    def open(self, index: int) -> AnyImage:
        """Open the image as it is stored, not decoded yet."""
        return self._open(index)

    def view(self, index: int, channels: int = RGB) -> AnyImage:
        """Open the image in 8 bits; it may be decoded later, and then only the part that is used.

        channels: 3, or 1 for gray. Images of another form than RGB8 are BandImages, and keep their
        channels and bits. Raises SkipImage if it is broken, at once or when it is decoded.
        """
        with errors_skip():
            image = self._open(index)
            check_form(image, self.form)
            if isinstance(image, BandImage):
                return image
            mode = MODES[channels]
            return image.to(mode) if isinstance(image, NativeImage) else eight_bits(image, mode)

    def check_channels(self, channels: int) -> None:
        """Raise DataError unless a model of so many channels can be shown these images."""
        if channels != self.form.channels and not (self.form == RGB8 and channels in MODES):
            raise DataError(
                f"{self.source} has images of {self.form} pixels, and the model takes "
                f"{channels} channels"
            )


def open_images(
    source: Path,
    *,
    label_field: str | None = None,
    image_field: str | None = None,
    channels: int | None = None,
    flag: str = "image folder",
) -> Images:
    """Open the images of a .beton file, of class folders, or of a flat folder (without labels).

    Of a folder with splits, train/ is used. label_field, image_field: of a .beton file with
    several. channels: those of the images in a folder; None: as files have them. flag: names such a
    folder in errors. Logs one line that describes the images. Raises DataError if there are none.
    """
    source, fields = Path(source), {"label_field": label_field, "image_field": image_field}
    check_is(source, BETON, FOLDER)
    as_file = source.is_file() or is_beton(source)
    images = _open_beton(source, fields) if as_file else _open_folder(source, channels, flag)
    log.info(data_line(source, images.kind, len(images), images.labels, images.classes or ()))
    return images


def random_indices(
    images: Images, count: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose up to `count` of the images (None: all) without replacement, in random order."""
    return rng.permutation(len(images))[:count]


def _open_beton(path: Path, fields: dict[str, str | None]) -> Images:
    reader = BetonReader(path, **fields)
    stat = path.stat()
    return Images(
        path,
        reader.labels,
        reader.class_names or None,
        functools.partial(NativeImage if reader.form == RGB8 else open_sample, reader),
        _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns, reader.image_field),
        reader.read,
        kind=reader.kind,
        identity=reader.identity,
        form=reader.form,
    )


def _open_folder(path: Path, channels: int | None, flag: str) -> Images:
    folder = scan_folder(path, flag=flag, channels=channels)
    stats = (_size_and_time(folder.path(index)) for index in range(len(folder.files)))
    return Images(
        path,
        folder.labels,
        folder.class_names or None,
        folder.open,
        _digest(*folder.files.tolist(), *stats),
        folder.read,
        kind=folder.kind,
        identity=folder.identity,
        form=folder.form,
        advice=hint_for(folder.path(0)),
        path=folder.path,
    )


def _one_of(indices: NDArray[np.int64], get: Callable[[int], Any], index: int) -> Any:
    """Return what `get` has at position `index` of `indices`."""
    return get(int(indices[index]))


def _inside(border: int, get: Callable[[int], AnyImage], index: int) -> AnyImage:
    """Return an image without its border. Raises SkipImage if nothing is left."""
    image = get(index)
    right, bottom = image.width - border, image.height - border
    if min(right, bottom) <= border:
        raise SkipImage(f"{image.width} x {image.height} pixels are all border")
    return image.crop((border, border, right, bottom))


def _part_of(identity: Callable[[], str], positions: bytes) -> str:
    """Identify the images at these positions of those that `identity` identifies."""
    return _digest(identity(), positions)


def _size_and_time(path: str) -> tuple[int, int] | None:
    """Return a file's size and time; None for one that a list names and that does not exist."""
    try:
        stat = Path(path).stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _digest(*parts: object) -> str:
    # max_pixels decides which images are skipped, value_range how they are decoded.
    known = max_pixels(), value_range(), *parts
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]
