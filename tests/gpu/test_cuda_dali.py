"""DALI on a real GPU: the CPU's pictures, in the GPU's memory, whatever else the GPU does."""

import pytest
import torch

from fastimae.loaders import DevicePrefetch, create_loader

pytest.importorskip("nvidia.dali")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SETTINGS = {"batch_size": 8, "input_size": (32, 32), "num_workers": 2, "max_bad_samples": 1}


@pytest.fixture
def folder(image_folder, tmp_path):
    """The images, with one that is cut short."""
    for file in image_folder.rglob("*.jpg"):
        copy = tmp_path / file.relative_to(image_folder)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    copy.write_bytes(copy.read_bytes()[:300])
    return tmp_path


@pytest.mark.parametrize("hw_decoder_load", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("prefetch", [False, True])
def test_batches_are_those_of_the_cpu(folder, hw_decoder_load, prefetch):
    with create_loader(data_path=folder, **SETTINGS) as loader:
        expected = list(loader)
    loader = create_loader(dali=folder, device="cuda", hw_decoder_load=hw_decoder_load, **SETTINGS)
    seen = []
    with DevicePrefetch(loader, "cuda") if prefetch else loader as batches:
        for batch in batches:
            assert batch.images.is_cuda
            seen.append(batch)
            torch.full_like(batch.images, 255)  # freed memory is used again at once
    for ours, exact in zip(seen, expected, strict=True):
        assert torch.equal(ours.index.cpu(), exact.index)
        difference = (ours.images.cpu().int() - exact.images.int()).abs().float()
        assert difference.mean((1, 2, 3)).max() < 3
    assert len(loader.bad) == 1


def test_two_decoders_share_the_samples(image_folder, tmp_path):
    from fastimae import cli

    beton = tmp_path / "images.beton"
    assert cli.convert([str(image_folder), str(beton), "--workers", "1"]) == 0
    with create_loader(ffcv=beton, **SETTINGS) as loader:
        expected = list(loader)
    with create_loader(ffcv=beton, dali_share=0.5, device="cuda", **SETTINGS) as loader:
        for ours, exact in zip(loader, expected, strict=True):
            assert ours.images.is_cuda and torch.equal(ours.index, exact.index)
            difference = (ours.images.cpu().int() - exact.images.int()).abs().float()
            assert difference.mean((1, 2, 3)).max() < 3
