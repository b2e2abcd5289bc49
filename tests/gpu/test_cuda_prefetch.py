"""Prefetching on a real GPU: whole batches, no host sync, copies beside steps, bounded memory."""

import numpy as np
import pytest
import torch

from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.loaders.workers.merge_rows import merge_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MILLISECOND = 2_000_000  # cycles, roughly


def make_loader(**settings):
    defaults = {"synthetic_samples": 1024, "batch_size": 64, "input_size": (96, 96)}
    return create_loader(synthetic=True, **{**defaults, **settings})


@pytest.mark.parametrize("depth", [1, 2])
def test_steps_see_their_batches(depth, no_sync):
    with make_loader() as loader:
        batches = list(loader)
    seen, memory = [], []
    before = torch.cuda.memory_allocated()
    with DevicePrefetch(make_loader(), "cuda", depth=depth) as prefetch:
        for number, batch in enumerate(prefetch, 1):
            torch.cuda._sleep(MILLISECOND)
            seen.append((batch.images.long().sum((1, 2, 3)), batch.index + 0, batch.key + 0))
            torch.full_like(batch.images, 255)  # freed memory is reused at once
            memory.append(torch.cuda.memory_allocated())
            assert prefetch.state_dict()["step"] == number
        del batch
    torch.cuda.set_sync_debug_mode("default")
    for expected, (sums, index, key) in zip(batches, seen, strict=True):
        assert torch.equal(sums.cpu(), expected.images.long().sum((1, 2, 3)))
        assert torch.equal(index.cpu(), expected.index) and torch.equal(key.cpu(), expected.key)
    per_batch = batches[0].images.numel() + (1 << 16)
    assert max(memory) - before < (depth + 2) * per_batch


def test_the_next_copy_does_not_wait_for_the_step():
    with DevicePrefetch(make_loader(), "cuda") as prefetch:
        batches = iter(prefetch)
        for _ in range(4):
            next(batches)
            torch.cuda._sleep(500 * MILLISECOND)
            step = torch.cuda.current_stream().record_event()
            copied, _ = prefetch._copies._unfinished[-1]
            copied.synchronize()
            assert not step.query()
            step.synchronize()


def test_a_batch_may_be_used_on_another_stream_and_iterations_left():
    with make_loader() as loader:
        batches = list(loader)
    side = torch.cuda.Stream()
    with DevicePrefetch(make_loader(), "cuda", depth=2) as prefetch:
        sums = []
        while len(sums) < len(batches):
            with torch.cuda.stream(side):
                batch = next(iter(prefetch))  # stop at once: two more are being copied
                torch.cuda._sleep(MILLISECOND)
                sums.append(batch.images.long().sum())
            del batch
            torch.full((64, 96, 96, 3), 255, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
    assert [value.item() for value in sums] == [b.images.long().sum().item() for b in batches]


def test_rows_from_the_host_do_not_wait_for_the_step(no_sync):
    shape, rows = (64, 96, 96, 3), np.split(np.arange(64)[::-1].copy(), [20])

    def join(value):
        """Return rows of `value` and rows of value + 1, from memory that is reused at once."""
        pixels = torch.full((20, *shape[1:]), value, dtype=torch.uint8)
        pinned = torch.full((44, *shape[1:]), value + 1, dtype=torch.uint8).pin_memory()
        made = merge_rows(shape, torch.device("cuda"), zip(rows, (pixels, pinned), strict=True))
        pixels.fill_(255)
        return made

    for first in (True, False):  # the first allocation of memory may wait
        made = []
        torch.cuda._sleep(500 * MILLISECOND)
        step = torch.cuda.current_stream().record_event()
        made = [join(value) for value in range(8)]
        assert first or not step.query()
        step.synchronize()
    torch.cuda.set_sync_debug_mode("default")
    for value, images in enumerate(made):
        assert (images[44:] == value).all() and (images[:44] == value + 1).all()
