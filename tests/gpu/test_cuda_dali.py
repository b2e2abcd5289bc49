"""DALI on a real GPU: the CPU's images, in GPU memory, whatever else the GPU does."""

import shutil

import pytest
import torch

from fastimae.loaders import DevicePrefetch, create_loader

pytest.importorskip("nvidia.dali")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

MILLISECOND = 2_000_000  # cycles, roughly
SETTINGS = {"batch_size": 8, "input_size": (32, 32), "num_workers": 2, "max_bad_samples": 1}


@pytest.fixture
def folder(image_folder, tmp_path):
    """Write the images, one of them truncated."""
    copy = shutil.copytree(image_folder, tmp_path / "folder")
    last = max(copy.rglob("*.jpg"))
    last.write_bytes(last.read_bytes()[:300])
    return copy


@pytest.fixture
def beton(image_folder, tmp_path):
    from fastimae import cli

    beton = tmp_path / "images.beton"
    assert cli.convert([str(image_folder), str(beton), "--workers", "1"]) == 0
    return beton


def largest_difference(batches, expected):
    """Return the largest difference of an image from the expected one, averaged over its values.

    Batches are dropped while the GPU is busy with something else, and compared much later: memory
    that is reused too early becomes visible.
    """
    expected = [(batch.images.cuda().int(), batch.index) for batch in expected]
    left, seen = iter(batches), []
    for images, _ in expected:
        batch = next(left)
        assert batch.images.is_cuda
        torch.cuda._sleep(50 * MILLISECOND)
        difference = (batch.images.int() - images).abs().float().mean((1, 2, 3))
        seen.append((difference, batch.index + 0))
        torch.full_like(batch.images, 255)  # freed memory is reused at once
        del batch
    assert next(left, None) is None
    for (_, shown), (_, index) in zip(seen, expected, strict=True):
        assert torch.equal(shown.cpu(), index)
    return max(difference.max().item() for difference, _ in seen)


@pytest.mark.parametrize("hw_decoder_load", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("prefetch", [False, True])
def test_batches_are_those_of_the_cpu(folder, hw_decoder_load, prefetch):
    with create_loader(data_path=folder, **SETTINGS) as loader:
        expected = list(loader)
    loader = create_loader(dali=folder, device="cuda", hw_decoder_load=hw_decoder_load, **SETTINGS)
    with DevicePrefetch(loader, "cuda") if prefetch else loader as batches:
        assert largest_difference(batches, expected) < 3
    assert len(loader.bad) == 1


def test_two_decoders_share_the_samples(beton):
    with create_loader(ffcv=beton, **SETTINGS) as loader:
        expected = list(loader)
    with create_loader(ffcv=beton, dali_share=0.5, device="cuda", **SETTINGS) as loader:
        assert largest_difference(loader, expected) < 3


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("share", [0.5, None])
def test_the_next_batch_does_not_wait_for_the_step(beton, folder, share, prefetch):
    """Parts of batches come from the host: a share, or the replacement of the truncated image."""
    source = {"ffcv": beton, "dali_share": share} if share else {"dali": folder}
    loader = create_loader(**source, device="cuda", **SETTINGS)
    with DevicePrefetch(loader, "cuda") if prefetch else loader as batches:
        list(batches)  # the first allocation of memory may wait
        batches.set_epoch(1)
        left = iter(batches)
        next(left)
        for _ in range(1, len(batches)):
            torch.cuda._sleep(500 * MILLISECOND)
            step = torch.cuda.current_stream().record_event()
            next(left)
            assert not step.query()
            step.synchronize()
