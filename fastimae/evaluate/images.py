"""Images with labels, one by one or as evaluation batches: no random crops, nothing left out.

B = batch, H, W = height and width in pixels, C = channels.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from fastimae.loaders import BetonReader
from fastimae.loaders.decode import errors_skip, reason_for
from fastimae.loaders.describe import describe
from fastimae.loaders.epoch_steps import Read, digest_of
from fastimae.loaders.imagefolder import scan_folder
from fastimae.loaders.limits import max_pixels, value_range
from fastimae.loaders.native_image import NativeImage
from fastimae.loaders.pixels import MODES, Mode, eight_bits
from fastimae.loaders.read_ahead import started_ahead, threads
from fastimae.loaders.source_imagenet import hint_for
from fastimae.loaders.what_is import BETON, FOLDER, check_is, is_beton
from fastimae.log import log

BATCHES_AHEAD = 2
CROP_SHARE = 224 / 256  # of the shorter side, up to 224 pixels; larger crops take all of it


class Images(Dataset[tuple[Image.Image, int]]):
    """`images[i]` is (PIL image in RGB, label), by the rules of `loaders.pixels`; raises SkipImage
    where it is broken. Those of a .beton file are decoded by the native engine where it is built.

    Picklable, for worker processes.
    """

    source: Path
    """The file or folder."""
    labels: NDArray[np.int64]
    """[N]; -1 where an image has no label."""
    classes: list[str] | None
    """The name of each label, where names are known."""
    kind: str
    """What they were taken for, in words."""
    advice: str
    """How to get labels for images that have none, where that is known."""
    whole: bool = False
    """Whether evaluation shows all of each image: see `center_view`."""

    def __init__(
        self,
        source: Path,
        labels: NDArray[np.int64],
        classes: list[str] | None,
        opener: Callable[[int], Image.Image],
        fingerprint: str,
        read: Read,
        *,
        kind: str,
        advice: str = "",
    ) -> None:
        """opener: see `open`. read: the bytes of an image."""
        self.source, self.labels, self.classes = source, labels, classes
        self.kind, self.advice = kind, advice
        self._open, self.read, self._files = opener, read, fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """Another text for other images or labels, as far as names, sizes and times of files tell;
        not for other names of classes."""
        return _digest(self._files, self.labels.tobytes())

    @functools.cached_property
    def digest(self) -> int:
        """`digest_of` the labels and images."""
        return digest_of(self.labels, self.read)

    @functools.cached_property
    def as_tested(self) -> int:
        """Another number for other images, labels or views, wherever they lie: see `digest_of`."""
        view = self.whole, max_pixels(), value_range()
        return zlib.crc32(repr(view).encode(), self.digest)

    def with_labels(self, labels: NDArray[np.int64], classes: list[str]) -> Images:
        """The same images with other labels, int64 [N], named by `classes`."""
        images = copy.copy(self)
        images.labels, images.classes = labels, classes
        for of_labels in ("fingerprint", "digest", "as_tested"):
            images.__dict__.pop(of_labels, None)
        return images

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = self.view(index)
        image.load()
        return image, int(self.labels[index])

    def open(self, index: int) -> Image.Image:
        """The image as it is stored, not decoded yet."""
        return self._open(index)

    def view(self, index: int, mode: Mode = "RGB") -> Image.Image:
        """The image in 8 bits, perhaps not decoded yet: then a crop decodes what it shows.

        Raises SkipImage where it is broken, at once or when it is decoded.
        """
        with errors_skip():
            image = self._open(index)
            return image.to(mode) if isinstance(image, NativeImage) else eight_bits(image, mode)


def open_images(
    source: Path, *, label_field: str | None = None, image_field: str | None = None
) -> Images:
    """The images of a .beton file, of class folders, or of a flat folder (without labels).

    Of a folder with splits, train/ is taken. label_field, image_field: of a .beton file with
    several. What was found is told in one line. Raises DataError where there are none.
    """
    source, fields = Path(source), {"label_field": label_field, "image_field": image_field}
    check_is(source, BETON, FOLDER)
    as_file = source.is_file() or is_beton(source)
    images = _open_beton(source, fields) if as_file else _open_folder(source)
    what = describe(len(images), images.labels, images.classes or ())
    log.info("%s: %s: %s", source, images.kind, what)
    return images


def center_batches(
    images: Images,
    size: tuple[int, int],
    *,
    batch_size: int,
    workers: int,
    channels: int = 3,
    indices: Sequence[int] | None = None,
) -> CenterBatches:
    """The evaluation view of `images`, or of those at `indices`, in order; see `center_view`.

    size: (height, width). workers: threads; 0 decodes in the calling one. channels: 3, or 1 for
    gray.
    """
    order = np.arange(len(images)) if indices is None else np.asarray(indices)
    return CenterBatches(images, size, order, batch_size, workers, channels)


class CenterBatches:
    """Iterable of (uint8 [B, H, W, C], labels int64 [B]). Broken images are left out."""

    def __init__(
        self,
        images: Images,
        size: tuple[int, int],
        order: NDArray[np.int64],
        batch_size: int,
        workers: int,
        channels: int,
    ) -> None:
        self.images, self.size, self.order = images, size, order
        self.batch_size, self.workers, self.channels = batch_size, workers, channels
        self.bad: dict[int, str] = {}
        """Index of each image that could not be read so far -> why."""

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts = range(0, len(self.order), self.batch_size)
        ahead = BATCHES_AHEAD if self.workers else 0
        with threads(self.workers) as pool:
            for tasks in started_ahead(functools.partial(self._start, pool), starts, ahead):
                views = [view for task in tasks if (view := task.result()) is not None]
                if views:
                    pixels, labels = zip(*views, strict=True)
                    yield torch.from_numpy(np.stack(pixels)), torch.tensor(labels)

    def _start(self, pool: Executor, at: int) -> list[Future]:
        indices = self.order[at : at + self.batch_size]
        return [pool.submit(self._view, int(index)) for index in indices]

    def _view(self, index: int) -> tuple[NDArray[np.uint8], int] | None:
        try:
            image = self.images.view(index, MODES[self.channels])
            shown = center_view(image, self.size, self.channels, self.images.whole)
            return shown, int(self.images.labels[index])
        except Exception as error:  # Pillow raises a dozen types
            if index not in self.bad:
                self.bad[index] = reason_for(error)
                log.warning("%s: image %d is left out: %s", self.images.source, index,
                            self.bad[index])  # fmt: skip
            return None


def center_view(
    image: Image.Image, size: tuple[int, int], channels: int = 3, whole: bool = False
) -> NDArray[np.uint8]:
    """What an image shows in evaluation, uint8 [H, W, C].

    size: (height, width). An image of that size stays as it is. Of others the middle is taken
    after a bicubic, antialiased resize to just cover size x 256 / 224 (for ImageNet: shorter side
    256, crop 224); above 224 pixels to just cover size itself, as MAE does in fine-tuning.
    whole: all of the image is resized to that size instead, as training with --crop none shows it.
    """
    height, width = size
    if image.mode != MODES[channels]:
        image = eight_bits(image, MODES[channels])
    if whole and image.size != (width, height):
        image = transforms.resize(image, [height, width], InterpolationMode.BICUBIC)
    if image.size != (width, height):
        share = CROP_SHARE if max(size) <= 224 else 1.0
        cover = max(int(height / share) / image.height, int(width / share) / image.width)
        resized = (
            max(height, int(image.height * cover + 1e-6)),
            max(width, int(image.width * cover + 1e-6)),
        )
        image = transforms.resize(image, list(resized), InterpolationMode.BICUBIC)
        image = transforms.center_crop(image, [height, width])
    return np.asarray(image).reshape(*size, channels)


def _open_beton(path: Path, fields: dict[str, str | None]) -> Images:
    reader = BetonReader(path, **fields)
    stat = path.stat()
    return Images(
        path,
        reader.labels,
        reader.class_names or None,
        functools.partial(NativeImage, reader),
        _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns, reader.image_field),
        reader.read,
        kind=reader.kind,
    )


def _open_folder(path: Path) -> Images:
    folder = scan_folder(path, flag="image folder")
    known = (_size_and_time(folder.path(index)) for index in range(len(folder.files)))
    return Images(
        path,
        folder.labels,
        folder.class_names or None,
        folder.open,
        _digest(*folder.files.tolist(), *known),
        folder.read,
        kind=folder.kind,
        advice=hint_for(folder.path(0)),
    )


def _size_and_time(path: str) -> tuple[int, int] | None:
    """None for a file that a list names and that is not there."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _digest(*parts: object) -> str:
    # The limit of pixels decides which images count, the range of values what they show.
    told = max_pixels(), value_range(), *parts
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]
