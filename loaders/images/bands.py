"""Images that Pillow cannot hold: any number of channels, of 8 or 16 bits.

A data set's images all have one `PixelForm`. Ordinary images have `RGB8`, whatever file they come
from; all others are arrays, wrapped so that they crop and resize.

H height, W width, C channels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.limits import check_pixels
from fastimae.loaders.images.pixel_form import DTYPES, MAX_CHANNELS, RGB8, PixelForm
from fastimae.loaders.images.resize import resize


class BandImage:
    """An image of any form, with those parts of PIL.Image's interface that loaders use."""

    def __init__(self, pixels_HWC: NDArray[np.uint8 | np.uint16]) -> None:
        """Wrap uint8 or uint16 pixels. Raises SkipImage for others, and above the pixel limit."""
        height, width, channels = pixels_HWC.shape
        check_dtype(pixels_HWC.dtype)
        if not (height and width and 0 < channels <= MAX_CHANNELS):
            raise SkipImage(f"{height} x {width} pixels of {channels} channels are no image")
        check_pixels(width, height)
        self.pixels_HWC, self.size = pixels_HWC, (width, height)
        self.form = PixelForm(channels, pixels_HWC.dtype)

    @property
    def width(self) -> int:
        """In pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """In pixels."""
        return self.size[1]

    @property
    def mode(self) -> str:
        """The form, where PIL has a mode."""
        return str(self.form)

    def tobytes(self) -> bytes:
        """Return the pixels, little-endian, as a .beton file has them."""
        little = self.pixels_HWC.astype(self.form.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(little).tobytes()

    def load(self) -> None:
        """Do nothing: the pixels are there."""

    def crop(self, box: tuple[int, int, int, int]) -> BandImage:
        """Return the part in `box`, (left, top, right, bottom), uncopied."""
        left, top, right, bottom = box
        return BandImage(self.pixels_HWC[top:bottom, left:right])

    def resize(self, size: tuple[int, int]) -> BandImage:
        """Resize to (width, height), channel by channel, with the same filter as all images.

        8 bits: Pillow's bicubic, antialiased, so the values of an RGB image are those that it would
        have as one. 16 bits: the same filter on floats (Pillow's mode F: fp64 weights and sums,
        fp32 between the two passes), rounded to even and clipped at the end. csrc/resize_bands.cc
        has the same values bit for bit, unless Pillow was compiled to fuse products and sums.
        """
        deep = self.form.dtype != np.uint8
        planes = np.moveaxis(self.pixels_HWC, -1, 0).astype(np.float32 if deep else np.uint8)
        # Contiguous planes of one array each: Pillow reads no other.
        resized = [np.asarray(resize(Image.fromarray(plane), size)) for plane in planes]
        pixels_HWC = np.stack(resized, axis=-1)
        if deep:
            pixels_HWC = np.rint(pixels_HWC).clip(0, np.iinfo(self.form.dtype).max)
        return BandImage(pixels_HWC.astype(self.form.dtype))


AnyImage = Image.Image | BandImage


def resized(image: AnyImage, size: tuple[int, int]) -> AnyImage:
    """Return an image of any form in another size, (width, height), by the filter of all images."""
    return image.resize(size) if isinstance(image, BandImage) else resize(image, size)


def form_of(image: AnyImage) -> PixelForm:
    """Return the form that an image is used in: RGB8 for a PIL image."""
    return image.form if isinstance(image, BandImage) else RGB8


def check_form(image: AnyImage, form: PixelForm) -> None:
    """Raise SkipImage for an image of another form than those of its data set."""
    if form_of(image) != form:
        raise SkipImage(f"{form_of(image)} where the data set has {form}")


def check_dtype(dtype: np.dtype) -> None:
    """Raise SkipImage unless values of this type are read."""
    if dtype not in DTYPES:
        raise SkipImage(
            f"{dtype} values: only uint8 and uint16 are read, so scale them to one of these first"
        )


def check_ordinary(form: PixelForm, source: object, flag: str) -> None:
    """Raise DataError for images that only our own decoders read. flag: that of another one."""
    if form != RGB8:
        raise DataError(
            f"{flag} reads ordinary images, and {source} has {form} pixels: give it as --ffcv FILE "
            "with --decoder auto, native or pillow"
        )
