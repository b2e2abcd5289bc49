"""Loaders whose images change size between two batches: --resolution_schedule."""

import dataclasses

import numpy as np
import pytest
from back_ends import QUICK

from fastimae.loaders import DevicePrefetch
from fastimae.loaders.images.crops import Crops

SIZE, SMALL = (24, 32), (12, 16)


@pytest.mark.parametrize("back_end", QUICK)
def test_batches_are_those_of_a_loader_of_that_size(data, back_end):
    """Before the first, within an epoch, and back; the samples stay those of the sampler."""
    with data.loader(back_end, input_size=SMALL) as small, data.loader(back_end) as large:
        expected = {size: list(loader) for size, loader in ((SMALL, small), (SIZE, large))}
    with data.loader(back_end) as inner:
        loader, got, sizes = DevicePrefetch(inner, "cpu"), [], [SMALL, SIZE, SMALL]
        for number, size in enumerate(sizes):
            loader.set_image_size(size)
            assert loader.shape == (*size, 3) == tuple(loader.example().images.shape[1:])
            assert loader.fixed_batch(3).images.shape[1:3] == size
            got.append(next(iter(loader)))
            assert loader.state_dict()["step"] == number + 1
    wanted = [expected[size][number] for number, size in enumerate(sizes)]
    assert data.same([*got], wanted)


def test_a_schedule_leaves_no_thread_or_process_behind(data, resources):
    before = resources.at_rest()
    for back_end in {"native-2", "pillow-2", "folder-1"}.intersection(QUICK):
        with data.loader(back_end) as loader:
            for size in (SMALL, SIZE):
                batches = iter(loader)
                next(batches)
                loader.set_image_size(size)
                assert next(batches, None) is None  # the iteration has ended, and what it started
    assert resources.settle_at(before)


@pytest.mark.parametrize("random", [True, False])
def test_windows_are_the_same_at_all_sizes_of_a_shape(random):
    key = np.arange(1000)
    heights, widths = (np.random.default_rng(side).integers(5, 900, 1000) for side in (0, 1))
    crops = Crops(size=(224, 112), random=random)
    windows, flips = crops.draw(key, heights, widths)
    for size in ((160, 80), (32, 16), (192, 96), (512, 256)):
        same = dataclasses.replace(crops, size=size).draw(key, heights, widths)
        assert np.array_equal(same[0], windows) and np.array_equal(same[1], flips)
