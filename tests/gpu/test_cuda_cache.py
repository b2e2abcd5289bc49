"""`cache="device"` on a real GPU: the CPU's batches, without the host, recorded in a CUDA graph."""

import dataclasses

import numpy as np
import pytest
import torch
from bands import write_beton

from fastimae.loaders import Batch, DevicePrefetch, create_loader
from fastimae.loaders.backends.device import DeviceLoader
from fastimae.loaders.images.pixel_form import PixelForm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SETTINGS = {"batch_size": 16, "input_size": (24, 32), "mix_group": 4, "repeated_aug": 2}


@pytest.fixture(params=["u1", "u2"])
def source(request, tmp_path):
    form = PixelForm(3, np.dtype(request.param))
    rng = np.random.default_rng(0)
    most = np.iinfo(form.dtype).max
    shapes = [(*rng.integers(20, 90, 2), 3) for _ in range(70)]
    images = [rng.integers(0, most, shape).astype(form.dtype) for shape in shapes]
    write_beton(tmp_path / "images.beton", images, form, labels=list(range(70)))
    return {"ffcv": tmp_path / "images.beton", "decoder": "pillow", **SETTINGS}


def copied(batch):
    return Batch(**{f.name: getattr(batch, f.name).clone() for f in dataclasses.fields(Batch)})


def assert_same(batches, expected):
    for ours, theirs in zip(batches, expected, strict=True):
        for field in dataclasses.fields(Batch):
            one, other = getattr(ours, field.name), getattr(theirs, field.name)
            assert one.is_cuda and torch.equal(one.cpu(), other), field.name


@pytest.mark.parametrize("crop", ["random", "none"])
def test_batches_are_those_of_the_cpu(source, crop):
    with create_loader(**source, crop=crop, cache="none") as loader:
        expected = list(loader)
    with create_loader(**source, crop=crop, cache="device", device="cuda") as loader:
        assert_same(DevicePrefetch(loader, "cuda"), expected)
        loader.resident.begin(0, 0)
        assert_same([loader.resident.batch() for _ in expected], expected)


def test_a_graph_makes_the_next_batches_without_the_host(source, no_sync):
    torch.cuda.set_sync_debug_mode("default")  # until the graph is there
    with create_loader(**source, cache="none") as loader:
        expected = list(loader)
        loader.set_epoch(1)
        expected += loader
    with create_loader(**source, cache="device", device="cuda") as loader:
        resident = loader.resident
        resident.begin(0, 0)
        resident.batch()  # compiles the kernels
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            batch = resident.batch()
        batches = []
        torch.cuda.set_sync_debug_mode("error")
        for epoch in (0, 1):
            resident.begin(epoch, 0)
            for _ in range(len(loader)):
                graph.replay()
                batches.append(copied(batch))
        torch.cuda.set_sync_debug_mode("default")
    assert_same(batches, expected)


def test_auto_keeps_a_small_data_set(source):
    with create_loader(**source, device="cuda") as loader:
        assert isinstance(loader, DeviceLoader)
