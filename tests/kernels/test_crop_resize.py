"""Crops of a store: bit-equal to the loaders', which are Pillow's, by every implementation."""

import sys

import numpy as np
import pytest
import torch

from fastimae.kernels import (
    PixelStore,
    _crops_cpu,
    crop_resize,
    draw_windows,
    reference_crops,
    resize_taps,
)
from fastimae.kernels.resize_taps import taps_bytes
from fastimae.loaders.images.bands import BandImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import crop_and_resize

IMPLS = ["torch", "triton"]
BOTH = pytest.mark.parametrize("impl", IMPLS)
ALL = pytest.mark.parametrize("impl", [*IMPLS, "reference"])
DTYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16], ids=str)


@pytest.fixture(autouse=True)
def _one_program(monkeypatch):
    """Let the interpreter, which takes its time for each program, make a crop in one or two."""
    monkeypatch.setattr(sys.modules["fastimae.kernels.crop_resize"], "_BLOCK", 512)


def by(impl, *args):
    if impl == "reference":
        return reference_crops.crop_resize(*args)
    return crop_resize(*args, impl=impl)


def pictures(sizes, channels=3, dtype=torch.uint8):
    """Make noise, and images of the lowest and highest value, for which the filter overshoots."""
    top = torch.iinfo(dtype).max
    noise = [torch.randint(0, top + 1, (*size, channels)) for size in sizes]
    images = [x if i % 3 else (x > top // 2) * top for i, x in enumerate(noise)]
    return [image.to(dtype) for image in images]


def by_pillow(images, index, window, flip, size):
    """Crop as the loaders do."""
    channels, dtype = images[0].shape[2], images[0].numpy().dtype
    crops = Crops(size=size, channels=channels, dtype=dtype)
    rows = zip(index.tolist(), window.tolist(), flip.tolist(), strict=True)
    found = [crop_and_resize(BandImage(images[i].numpy()), w, f, crops) for i, w, f in rows]
    return torch.from_numpy(np.stack(found))


def some_crops(images, batch):
    """Draw windows of some images: their index, window and flip."""
    index = torch.arange(batch) % len(images)
    sizes = torch.tensor([images[i].shape[:2] for i in index.tolist()], dtype=torch.int32)
    bounds = {"scale": (0.1, 1.0), "ratio": (0.3, 3.0)}
    return index, *draw_windows(torch.arange(batch) * 7919, *sizes.T, **bounds)


@ALL
@DTYPES
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (7, 12)), (5, (8, 8))])
def test_they_are_pillows(impl, dtype, channels, size):
    """Windows are both larger and smaller than the crop, and of one pixel."""
    sizes = [(40, 30), (1, 1), (9, 33), (31, 8), (5, 5), (2, 20)]
    images = pictures(sizes, channels, dtype)
    index, window, flip = some_crops(images, 12)
    vertical = reference_crops.is_vertical_first(window, size)
    assert flip.any() and vertical.any() and not vertical.all()
    taps = resize_taps(40, size, dtype=dtype)
    got = by(impl, PixelStore.of(images), index, window, flip, taps)
    assert got.dtype == dtype and got.is_contiguous()
    assert torch.equal(got, by_pillow(images, index, window, flip, size))


@DTYPES
def test_windows_of_every_length(dtype):
    """Their taps are those of Pillow, up to eight times the crop's length."""
    images = pictures([(n, 129 - n) for n in range(1, 129)], 1, dtype)
    index, flip = torch.arange(128), torch.zeros(128, dtype=torch.bool)
    window = torch.tensor([(0, 0, *image.shape[:2]) for image in images], dtype=torch.int32)
    taps = resize_taps(128, (16, 16), dtype=dtype)
    got = crop_resize(PixelStore.of(images), index, window, flip, taps)
    assert torch.equal(got, by_pillow(images, index, window, flip, (16, 16)))


@ALL
@DTYPES
def test_windows_of_the_crops_size_are_copied(impl, dtype):
    images = pictures([(12, 9), (8, 8)], dtype=dtype)
    index, flip = torch.tensor([0, 1, 0, 0]), torch.tensor([False, True, True, False])
    window = torch.tensor([(0, 0, 8, 8), (0, 0, 8, 8), (4, 1, 8, 8), (2, 0, 9, 8)]).int()
    got = by(impl, PixelStore.of(images), index, window, flip, resize_taps(12, (8, 8), dtype=dtype))
    expected = [images[0][:8, :8], images[1].flip(1), images[0][4:, 1:9].flip(1)]
    assert torch.equal(got[:3], torch.stack(expected))
    assert torch.equal(got, by_pillow(images, index, window, flip, (8, 8)))


def test_a_copy_has_one_tap():
    down, across = resize_taps(20, (8, 12))
    assert down.count[8] == 1 and across.count[12] == 1 and across.count[8] == 4
    assert across.first[12].tolist() == list(range(12))


@ALL
def test_the_end_of_the_store(impl):
    """The last window of the last image is narrower than others of its batch."""
    images = pictures([(9, 40), (6, 5)])
    index, flip = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool)
    window = torch.tensor([(1, 2, 8, 38), (3, 3, 3, 2)]).int()
    got = by(impl, PixelStore.of(images), index, window, flip, resize_taps(40, (4, 4)))
    assert torch.equal(got, by_pillow(images, index, window, flip, (4, 4)))


@BOTH
def test_stores_beyond_four_gigabytes(impl, tmp_path):
    # A sparse file takes no memory: only the pages of the small image are touched.
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**33, dtype=torch.uint8)
    (image,), start = pictures([(10, 12)]), 2**33 - 10 * 12 * 3
    memory[start:] = image.flatten()
    height, width = (torch.tensor([side], dtype=torch.int32) for side in (10, 12))
    store = PixelStore(memory, torch.tensor([start]), height, width, 3)
    args = torch.zeros(1, dtype=torch.int64), torch.tensor([(1, 2, 9, 10)]).int()
    flip, taps = torch.tensor([True]), resize_taps(12, (8, 8))
    got = crop_resize(store, *args, flip, taps, impl=impl)
    assert torch.equal(got, by_pillow([image], *args, flip, (8, 8)))


@BOTH
def test_a_crop_is_the_same_in_any_batch(impl, monkeypatch):
    images = pictures([(20, 30), (9, 9), (16, 8)])
    store, taps, args = PixelStore.of(images), resize_taps(30, (8, 8)), some_crops(images, 6)
    together = crop_resize(store, *args, taps, impl=impl)
    order = torch.tensor([5, 0, 3])
    spaced = [torch.stack([x, x], 1)[:, 0][order] for x in args]
    assert torch.equal(together[order], crop_resize(store, *spaced, taps, impl=impl))
    monkeypatch.setattr(_crops_cpu, "_BLOCK", 1)
    assert torch.equal(together, crop_resize(store, *args, taps, impl=impl))


@BOTH
def test_empty_batch(impl):
    images = pictures([(4, 4)])
    args = PixelStore.of(images), *(x[:0] for x in some_crops(images, 1)), resize_taps(4, (2, 3))
    assert crop_resize(*args, impl=impl).shape == (0, 2, 3, 3)


@BOTH
def test_registration(impl):
    images = pictures([(6, 5), (4, 8)])
    axes = [list(axis[:-1]) for axis in resize_taps(8, (4, 3))]
    args = *PixelStore.of(images), *some_crops(images, 3), *axes, impl == "triton"
    torch.library.opcheck(torch.ops.fastimae.crop_resize, args)


@BOTH
def test_compiled(impl):
    compiled = torch.compile(crop_resize, fullgraph=True, backend="aot_eager")
    images = pictures([(6, 5), (4, 8)])
    args = PixelStore.of(images), *some_crops(images, 3), resize_taps(8, (4, 3))
    assert torch.equal(compiled(*args, impl=impl), reference_crops.crop_resize(*args))


@DTYPES
@pytest.mark.parametrize(("longest", "size"), [(1, (1, 1)), (60, (1, 7)), (90, (40, 32))])
def test_memory_of_taps_is_known_before(dtype, longest, size):
    axes = {id(axis): axis for axis in resize_taps(longest, size, dtype=dtype)}.values()
    taken = sum(part.nbytes for axis in axes for part in axis[:-1])
    assert taken <= taps_bytes(longest, size, dtype) <= 1.1 * taken


@pytest.mark.parametrize("wrong", [{"longest": 0}, {"size": (0, 4)}, {"dtype": torch.float32}])
def test_impossible_taps_are_refused(wrong):
    with pytest.raises(ValueError, match="resize_taps: "):
        resize_taps(**({"longest": 8, "size": (4, 4)} | wrong))
