"""Images of many channels and of 16 bits, and an independent resize of them in float64."""

import numpy as np

from fastimae.loaders import BetonWriter
from fastimae.loaders.images.pixel_form import PixelForm

FORMS = [
    PixelForm(channels, np.dtype(dtype))
    for channels, dtype in [(2, "u1"), (6, "u1"), (1, "u2"), (3, "u2"), (4, "u2"), (13, "u2")]
]


def make_images(form, count=6, sides=(20, 70), seed=0):
    """Make images of different sizes, [H, W, C], smooth enough that no filter overshoots far."""
    rng = np.random.default_rng(seed)
    most = np.iinfo(form.dtype).max
    shapes = rng.integers(*sides, (count, 2))
    return [
        rng.integers(0, most + 1, (*shape, form.channels)).astype(form.dtype) for shape in shapes
    ]


def write_beton(path, images, form, labels=None):
    """Write images to a .beton file without a conversion."""
    with BetonWriter(path, form=form) as writer:
        for i, pixels in enumerate(images):
            writer.append(
                pixels.astype(form.dtype.newbyteorder("<")).tobytes(), mode="raw",
                height=pixels.shape[0], width=pixels.shape[1], label=labels[i] if labels else 0,
            )  # fmt: skip
    return path


def exact_resize(pixels_HWC, size):
    """Resize in float64 by the definition of the antialiased bicubic filter (a = -0.5), unclipped:
    a matrix for the rows, one for the columns."""
    down, along = (
        _matrix(before, after) for before, after in zip(pixels_HWC.shape[:2], size, strict=True)
    )
    return np.einsum("yh,hwc,xw->yxc", down, pixels_HWC.astype(np.float64), along)


def _matrix(before, after):
    scale = before / after
    stretch = max(scale, 1.0)
    center = (np.arange(after)[:, None] + 0.5) * scale
    position = np.arange(before)[None] + 0.5
    weights = _cubic(np.abs(position - center) / stretch)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(x):
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
