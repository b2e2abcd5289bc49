"""Images that stay on the GPU: batches are our engine's, drawn and recorded without the host."""

import dataclasses

import pytest
import torch

from benchmarks.pictures import made_up_beton
from fastimae.engine.graph import record_cuda_graph
from fastimae.loaders import Batch, create_loader

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DEVICE = "cuda"
COUNT, BATCH = 48, 16
FIELDS = [field.name for field in dataclasses.fields(Batch)]


@pytest.fixture(scope="module", params=[(32, 32), (97, 61)], ids=["cifar", "larger"])
def beton(request, tmp_path_factory):
    return made_up_beton(tmp_path_factory.mktemp("beton"), count=COUNT, sides=request.param)


def loader(beton, cache, **settings):
    return create_loader(
        ffcv=beton, cache=cache, device=DEVICE, input_size=(32, 32), batch_size=BATCH, mix_group=0,
        num_workers=2, **settings,
    )  # fmt: skip


def engines(beton, epoch, **settings):
    """Return the batches of an epoch as our engine decodes them."""
    with loader(beton, "none", **settings) as decodes:
        decodes.set_epoch(epoch)
        return list(decodes)


def equal(batch, expected):
    return all(torch.equal(getattr(batch, f).cpu(), getattr(expected, f)) for f in FIELDS)


@pytest.mark.parametrize("settings", [{}, {"crop": "none", "hflip": False}], ids=["rrc", "whole"])
def test_batches_are_the_engines(beton, settings):
    with loader(beton, "device", **settings) as kept:
        for epoch in (0, 3):
            kept.resident.begin(epoch, 1)
            for expected in engines(beton, epoch, **settings)[1:]:
                assert equal(kept.resident.batch(), expected)


def test_iterating_yields_the_same(beton):
    with loader(beton, "device") as kept:
        for batch, expected in zip(kept, engines(beton, 0), strict=True):
            assert batch.images.device.type == DEVICE and equal(batch, expected)


def test_a_recorded_batch_is_the_next_one_in_each_replay(beton, no_sync):
    torch.cuda.set_sync_debug_mode("default")
    with loader(beton, "device") as kept:
        kept.resident.begin(0, 0)
        kept.resident.batch()  # compiles kernels
        made = []
        replay = record_cuda_graph(lambda: made.append(kept.resident.batch()))
        for epoch in (1, 2):
            kept.resident.begin(epoch, 0)
            torch.cuda.set_sync_debug_mode("error")
            seen = []
            for _ in range(COUNT // BATCH):
                replay()
                fields = {f: getattr(made[-1], f).clone() for f in FIELDS}
                seen.append(Batch(**fields))
            torch.cuda.set_sync_debug_mode("default")
            assert all(map(equal, seen, engines(beton, epoch)))
