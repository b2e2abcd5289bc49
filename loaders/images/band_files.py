"""Opens image files of any form: .npy arrays, TIFFs of many bands, and files of 16 bits.

Everything else is Pillow's. TIFFs that Pillow does not read go to tifffile, 16-bit colours of PNG
to imagecodecs: both are optional.
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.bands import AnyImage, BandImage, check_dtype, form_of
from fastimae.loaders.images.given_images import as_image
from fastimae.loaders.images.limits import TooManyPixels, check_pixels, open_image
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.images.pixels import DEEP_GRAY, gray_bits, is_deep_colour

_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KEPT_BITS = 8
"""Bits of a value that are kept unless more are asked for."""
_WHITE_IS_ZERO = 0
_ALPHA = (1, 2)
"""Values of ExtraSamples."""
_SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 277, 338
"""TIFF tags."""


def open_any(data: bytes, channels: int | None = None, depth: int = KEPT_BITS) -> AnyImage:
    """Open an image file's bytes; ordinary ones are decoded later, by Pillow.

    channels: the number that is wanted; None: what the file has. depth: 16 keeps all bits of 16-bit
    gray and colours; else Pillow reduces them to 8. Raises SkipImage, and what Pillow raises.
    """
    if data.startswith(_NPY):
        keep_all = channels in (1, 3)  # a fourth channel of a file is not taken for alpha
        return as_image(_read_npy(data), None if keep_all else channels)
    if not data.startswith(_TIFF):
        image = open_image(data)
        return image if depth == 8 else _deep(image, data)
    if channels not in (None, 1, 3) or (depth == 16 and _has_16_bits(data)):
        return _image_of(_read_tiff(data, channels))
    return _ordinary_tiff(data, channels)


def first_form(open_one: Callable[[Any], AnyImage], which: Iterable[Any]) -> PixelForm | None:
    """Return the form of the first image that can be opened; None if none can."""
    for one in which:
        try:
            return form_of(open_one(one))
        except Exception:
            continue
    return None


def _read_npy(data: bytes) -> NDArray:
    """Return the array of a .npy file, which shares the memory of `data` if bytes are in order."""
    shape, is_fortran, dtype = _npy_header(file := io.BytesIO(data))
    native = dtype.newbyteorder("=")
    check_dtype(native)
    found, expected = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or found < expected:
        raise SkipImage(f"damaged .npy: {found} bytes of values, not {list(shape)} x {native}")
    values = np.frombuffer(data, dtype, math.prod(shape), file.tell())
    return values.reshape(shape, order="F" if is_fortran else "C").astype(native, copy=False)


def _npy_header(file: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type, and leave `file` at the first value."""
    npy = np.lib.format
    try:
        version = npy.read_magic(file)
        return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    except Exception as error:  # of numpy and of Python's parser, which reads the header
        raise SkipImage(f"damaged .npy: {error}") from error


def _deep(image: Image.Image, data: bytes) -> AnyImage:
    """Return an image with all of its 16 bits; unchanged if it has 8."""
    if is_deep_colour(image):
        return BandImage(_read_png(data) if image.format == "PNG" else _refuse(image))
    if image.mode in DEEP_GRAY and gray_bits(image):
        return BandImage(np.asarray(image).astype(np.uint16)[..., None])
    return image


def _refuse(image: Image.Image) -> NDArray:
    raise SkipImage(
        f"--depth 16 reads the 16-bit colours of PNG and TIFF only, not of {image.format}"
    )


def _read_png(data: bytes) -> NDArray[np.uint16]:
    """Decode a PNG of 16-bit colours; alpha is dropped. Pillow reads 8 of the bits."""
    decode = _optional("imagecodecs").png_decode
    try:
        pixels_HWC = decode(data)
    except Exception as error:  # the library's own
        raise SkipImage(f"cannot be decoded: {error}") from error
    channels = pixels_HWC.shape[-1]
    return pixels_HWC[..., : channels - (channels in (2, 4))]


def _ordinary_tiff(data: bytes, channels: int | None) -> AnyImage:
    """Open a TIFF with Pillow; those of more channels than it reads with tifffile."""
    try:
        image = open_image(data)
        if channels is not None or _pillow_keeps_all(image):
            return image
    except TooManyPixels:
        raise
    except SkipImage:
        pass
    return _image_of(_read_tiff(data, channels))


def _pillow_keeps_all(image: Image.Image) -> bool:
    """Return whether Pillow drops no channels of a TIFF, apart from a fourth one.

    It reads 5 and 6 of them as 3, and 2 as gray with alpha or as gray alone.
    """
    samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
    alpha = set(image.tag_v2.get(_EXTRA_SAMPLES, ())) & set(_ALPHA)
    return samples in (1, 3, 4) or (samples == 2 and bool(alpha))


def _image_of(pixels_HWC: NDArray) -> AnyImage:
    image = BandImage(pixels_HWC)
    return Image.fromarray(np.ascontiguousarray(pixels_HWC)) if image.form == RGB8 else image


def _has_16_bits(data: bytes) -> bool:
    with _optional("tifffile").TiffFile(io.BytesIO(data)) as tiff:
        return tiff.pages[0].dtype == np.uint16


def _read_tiff(data: bytes, channels: int | None) -> NDArray:
    """Read the first image of a TIFF as [H, W, C], with values that fill the range of their type.

    Its pages are channels if they are as many as `channels`. If that is None, alpha is dropped.
    """
    tifffile = _optional("tifffile")
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page = tiff.pages[0]
            check_pixels(page.imagewidth, page.imagelength)
            if channels != 1 and len(tiff.pages) == channels:
                pixels_HWC = np.stack([page.asarray() for page in tiff.pages], axis=-1)
            else:
                pixels_HWC = _bands_last(page.asarray(), last=page.axes.endswith("S"))
            if channels is None and page.extrasamples:
                alpha = sum(extra in _ALPHA for extra in page.extrasamples)
                pixels_HWC = pixels_HWC[..., : pixels_HWC.shape[-1] - alpha]
            return _filled(pixels_HWC, page)
    except SkipImage:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise SkipImage(f"cannot be decoded: {error or type(error).__name__}") from error


def _bands_last(pixels: NDArray, *, last: bool) -> NDArray:
    """Return [H, W, C] from that (if `last`), [C, H, W] or [H, W]."""
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim != 3:
        raise SkipImage(f"a TIFF of {list(pixels.shape)} values is not one image")
    return pixels if last else np.moveaxis(pixels, 0, -1)


def _filled(pixels_HWC: NDArray, page: Any) -> NDArray:
    """Scale 12 bits and the like to 16, and invert a TIFF in which white is zero."""
    bits = page.bitspersample
    if pixels_HWC.dtype == np.uint16 and isinstance(bits, int) and 8 < bits < 16:
        pixels_HWC = pixels_HWC << (16 - bits)
    if page.photometric == _WHITE_IS_ZERO and pixels_HWC.dtype.kind == "u":
        return np.iinfo(pixels_HWC.dtype).max - pixels_HWC
    return pixels_HWC


def _optional(library: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise SkipImage(f"{library} is needed for it: pip install 'fastimae[bands]'") from error
