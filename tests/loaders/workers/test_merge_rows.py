"""Batches merged on a GPU: complete in any timing, and the host waits for no step."""

import io
from collections import deque

import numpy as np
import pytest
import torch
from fake_cuda import Memory
from fake_torch import FakeTorch
from PIL import Image

from fastimae.loaders.backends import dali as dali_loader
from fastimae.loaders.images.decode import crop_and_resize
from fastimae.loaders.workers.merge_rows import merge_rows

BAD = {3: b"not a JPEG", 17: b"nor this", 30: b"nor this"}


class Exported(list):
    """Crops as DALI hands them over."""

    def as_tensor(self):
        return np.stack(self)


class PillowPipeline:
    """A `DaliPipeline` with Pillow's pixels."""

    def __init__(self, crops, **_):
        self.crops, self.fed = crops, deque()

    def feed(self, request):
        self.fed.append(request)

    def take(self):
        request, made = self.fed.popleft(), Exported()
        for jpeg, window, flip in zip(request.jpegs, request.windows, request.flips, strict=True):
            image = Image.open(io.BytesIO(jpeg.data))
            made.append(crop_and_resize(image, window.tolist(), bool(flip), self.crops))
        return made

    def restore(self):
        pass

    def close(self):
        pass


@pytest.fixture
def on_gpu(broken, monkeypatch):
    """Return a function (back end, model of torch) -> batches as expected, and as steps on the GPU
    saw them. Some samples are bad."""
    data = broken(BAD)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dali_loader, "DaliPipeline", PillowPipeline)

    def run(back_end, gpu, pin_mem=True):
        monkeypatch.setattr(torch, "from_dlpack", gpu.exported)
        with data.loader("pillow-0", pin_mem=False) as loader:
            expected = [batch.images.numpy() for batch in loader]
        seen = []
        with gpu, data.loader(back_end, device="cuda", pin_mem=pin_mem) as loader:
            for batch in loader:
                assert batch.images.is_cuda
                gpu.read(batch.images, seen)
                del batch
                gpu.advance(gpu.random.randrange(12))
            assert loader.bad.keys() == BAD.keys()
            gpu.finish()
        return expected, seen

    return run


def equal(expected, seen):
    return len(expected) == len(seen) and all(map(np.array_equal, expected, seen))


@pytest.mark.parametrize("pin_mem", [True, False])
@pytest.mark.parametrize("back_end", ["dali-0", "dali-2", "dalishare-0", "dalishare-2"])
def test_steps_see_whole_batches_and_the_host_never_waits(on_gpu, back_end, pin_mem):
    for seed in range(5):
        gpu = FakeTorch(seed)
        assert equal(*on_gpu(back_end, gpu, pin_mem)) and gpu.waits == 0


class Unaware(FakeTorch):
    """Pinned memory is used again before the copies from it are done."""

    def pinned_memory(self):
        return Memory()


class ForgetfulDali(FakeTorch):
    """DALI does not keep memory that torch has released."""

    def dali_memory(self):
        return Memory()


@pytest.mark.parametrize("mistake", [Unaware, ForgetfulDali])
def test_the_model_notices_memory_used_too_early(on_gpu, mistake):
    assert any(not equal(*on_gpu("dalishare-0", mistake(seed))) for seed in range(5))


def test_the_model_notices_a_wait():
    with FakeTorch() as gpu:
        torch.zeros(3).to("cuda", non_blocking=True)
        torch.zeros(3).pin_memory().to("cuda")
        assert gpu.waits == 2


def test_later_parts_count():
    rows = [np.array(rows) for rows in ([2, 0], [1, 2], [])]
    pixels = [torch.full((len(r), 1, 1, 3), i, dtype=torch.uint8) for i, r in enumerate(rows)]
    made = merge_rows((3, 1, 1, 3), torch.device("cpu"), zip(rows, pixels, strict=True))
    assert made[:, 0, 0, 0].tolist() == [0, 1, 1]
