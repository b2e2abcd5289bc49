"""`cache="device"`: the batches are those of the loader that decodes each epoch, bit for bit."""

import io
import logging

import numpy as np
import pytest
import torch
from bands import FORMS, make_images, write_beton
from PIL import Image

from fastimae.kernels.resize_taps import taps_bytes
from fastimae.loaders import (
    Batch,
    BetonWriter,
    DataError,
    DevicePrefetch,
    NormalizedPairs,
    create_loader,
)
from fastimae.loaders.backends.device import DeviceLoader
from fastimae.loaders.device import room, store
from fastimae.loaders.device.plan import derive_keys
from fastimae.loaders.order import philox
from fastimae.settings import free_settings

NOT_AN_IMAGE = b"\0" * 500
GRID = {
    "plain": {},
    "whole": {"crop": "none"},
    "gray": {"in_chans": 1, "hflip": False},
    "shapes": {"min_crop": 0.5, "max_crop": 0.7, "crop_ratio": (0.5, 3.0)},
    "copies": {"repeated_aug": 2, "mix_group": 2},
    "several passes": {"epoch_samples": 90, "mix_group": 2},
    "part of a pass": {"epoch_samples": 20},
    "classes": {"same_class_ratio": 0.5},
    "few images": {"images": 17, "reciprocal_pairs": True},
    "one class": {"images_from": "one_class", "epoch_samples": 30},
    "a rank": {"rank": 1, "world_size": 2, "batch_size": 4, "accum_iter": 2},
}


def resident_batches(loader, epoch, step=0) -> list[Batch]:
    """Make the rest of an epoch on the device."""
    loader.resident.begin(epoch, step)
    batches = []
    while loader.state_dict()["step"] < len(loader):
        batches.append(loader.resident.batch())
        loader.resident.advance(1)
    return batches


def all_of(loader, *epochs) -> list[Batch]:
    """Iterate over epochs."""
    batches = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        batches += loader
    return batches


@pytest.mark.parametrize("settings", GRID.values(), ids=GRID)
def test_batches_are_those_of_the_loader_that_decodes(data, settings):
    with data.loader("pillow-0", **settings) as each, data.loader("device-0", **settings) as once:
        expected = all_of(each, 3)
        assert data.same(all_of(once, 3), expected)
        assert once.state_dict() == each.state_dict()
        assert data.same(resident_batches(once, 3), expected)
        assert once.state_dict() == each.state_dict() and once.report() == each.report()


@pytest.mark.parametrize("epoch_samples", [8, 90])
def test_a_user_sees_no_warning_of_torch(data, epoch_samples, recwarn):
    """As of a read-only array, which a broadcast one is that numpy did not have to copy."""
    torch.set_warn_always(True)
    try:
        with data.loader("device-0", epoch_samples=epoch_samples) as loader:
            loader.resident.begin(0, 0)
    finally:
        torch.set_warn_always(False)
    assert not recwarn.list


@pytest.mark.parametrize("back_end", ["folder-1", "native-2"])
@pytest.mark.parametrize("crop", ["random", "none"])
def test_every_decoder_fills_the_device(data, back_end, crop, monkeypatch):
    monkeypatch.setattr(store, "CHUNK_BYTES", 5000)  # so that images of a size are several chunks
    with (
        data.loader(back_end, crop=crop) as each,
        data.loader(back_end, crop=crop, cache="device") as once,
    ):
        assert data.same(resident_batches(once, 0), list(each))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_images_of_any_form(form, tmp_path):
    write_beton(tmp_path / "bands.beton", make_images(form), form)
    settings = {
        "ffcv": tmp_path / "bands.beton",
        "in_chans": form.channels,
        "batch_size": 3,
        "input_size": 16,
    }
    with create_loader(**settings) as each, create_loader(**settings, cache="device") as once:
        for ours, expected in zip(resident_batches(once, 0), each, strict=True):
            assert ours.images.dtype == expected.images.dtype
            assert torch.equal(ours.images, expected.images)


def test_bad_samples_are_replaced_and_counted_as_ever(data, broken, caplog):
    files = broken({3: NOT_AN_IMAGE, 10: data.payloads[10][:-200], 29: b"x"})
    for way in (all_of, resident_batches):
        with files.loader("native-0") as each, files.loader("device-0") as once:
            assert once.bad == {}  # none has come up yet
            with caplog.at_level(logging.WARNING, "fastimae"):
                assert data.same(way(once, 1), all_of(each, 1))
            assert once.state_dict() == each.state_dict() and len(once.bad) == 3
            assert f"sample 3 of {files.beton} is replaced" in caplog.text
    with (
        files.loader("device-0", max_bad_samples=1) as loader,
        pytest.raises(DataError, match="--max_bad_samples is 1"),
    ):
        resident_batches(loader, 0)


def test_a_batch_of_bad_samples_only(data, broken):
    files = broken(dict.fromkeys(range(data.count), NOT_AN_IMAGE))
    with (
        files.loader("device-0") as loader,
        pytest.raises(DataError, match="all 8 samples of a batch are bad"),
    ):
        resident_batches(loader, 0)


def test_runs_resume_from_either_loader(data):
    with data.loader("native-0") as each, data.loader("device-0") as once:
        once.resident.begin(2, 0)
        once.resident.batch()
        once.resident.advance(3)
        each.load_state_dict(once.state_dict())
        rest = list(each)
        assert len(rest) == 2
        assert data.same(resident_batches(once, 2, step=3), rest)
        each.set_epoch(4)
        next(iter(each))
        once.load_state_dict(each.state_dict())
        assert data.same(list(once), list(each))


@pytest.mark.parametrize("crop", ["random", "none"])
def test_the_size_may_change_between_epochs(data, crop):
    with data.loader("native-0", crop=crop, input_size=(12, 16)) as small:
        expected = list(small)
    with data.loader("device-0", crop=crop) as loader:
        resident_batches(loader, 0)
        loader.set_image_size((12, 16))
        assert data.same(resident_batches(loader, 0), expected)


def test_whole_images_are_kept_in_their_final_size(data):
    with data.loader("device-0", crop="none", images=10) as loader:
        assert loader.images.store.pixels.numel() == 10 * 24 * 32 * 3


def test_pairs_pictures_and_examples(data):
    with data.loader("native-0") as each, data.loader("device-0") as once:
        assert data.same([once.fixed_batch(11)], [each.fixed_batch(11)])
        assert once.example().images.shape == (8, 24, 32, 3)
        prefetch = DevicePrefetch(once, "cpu")
        assert prefetch.resident is once.resident and DevicePrefetch(each, "cpu").resident is None
        pairs = [NormalizedPairs(loader, (0.5,) * 3, (0.2,) * 3) for loader in (prefetch, each)]
        for ours, theirs in zip(*pairs, strict=True):
            assert all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize("seed", [0, -3, 2**64 - 1])
def test_keys_are_those_of_the_host(seed):
    numbers, copies = np.array([[0, 5, 2**33 + 1]]).repeat(2, 0), np.array([0, 2, 2**20])
    stream = philox.KeyStream.SAMPLE
    expected = philox.derive_keys(seed, numbers, 7, stream, np.broadcast_to(copies, (2, 3)))
    ours = derive_keys(seed, torch.from_numpy(numbers), 7, stream, torch.from_numpy(copies))
    assert np.array_equal(ours, expected)


def test_auto_keeps_what_fits_in_a_share_of_the_gpu(data, monkeypatch):
    """Judged by its sizes, before anything is decoded; on the CPU nothing is kept."""
    with data.loader("pillow-0") as loader:
        assert not isinstance(loader, DeviceLoader)
        sizes, crops = loader.sizes(loader.sampler.chosen), loader.crops
        taps = taps_bytes(int(np.max(sizes)), crops.size)
        needed = int((sizes[0] * sizes[1]).sum()) * 3 + taps

        def is_kept(free, total, cache="auto", **ranks):
            monkeypatch.setattr(room, "memory", lambda device: (free, total))
            rest = loader.sampler.chosen, crops, torch.device("cuda"), cache
            return room.room_for(loader, *rest, num_workers=0, **ranks) is not None

        assert is_kept(needed, 4 * needed) and is_kept(needed, needed, "device")
        assert not is_kept(needed, 4 * needed - 4) and not is_kept(needed - 1, 4 * needed)
        assert not is_kept(needed // 10, needed)
        with pytest.raises(DataError, match=r"--cache device: 42 .* take .* GB, .* free"):
            is_kept(needed - 1, 4 * needed, "device")
        with pytest.raises(DataError, match="--cache auto: "):  # other ranks may have room
            is_kept(needed - 1, 4 * needed, alone=False)


def test_a_sample_with_an_absurd_size_takes_no_room(data, tmp_path):
    """Its pixels, and filters for windows in it, would be gigabytes."""
    path = tmp_path / "absurd.beton"
    with BetonWriter(path) as writer:
        for payload in data.payloads[:8]:
            width, height = Image.open(io.BytesIO(payload)).size
            writer.append(payload, height=height, width=width)
        writer.append(data.payloads[8], height=15_000, width=15_000)
    settings = {"ffcv": path, "batch_size": 9, "input_size": 8}
    with create_loader(**settings) as each, create_loader(**settings, cache="device") as once:
        assert once.images.store.pixels.numel() < 1 << 20
        assert data.same(resident_batches(once, 0), list(each))
        assert list(once.bad) == [8] and "over --max_pixels" in once.bad[8]


@pytest.mark.filterwarnings("error")
def test_an_epoch_of_one_step(data):
    with data.loader("native-0", images=8) as each, data.loader("device-0", images=8) as once:
        assert data.same(resident_batches(once, 0), list(each))


def test_a_resumed_run_may_change_it():
    assert "cache" in free_settings()


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"synthetic": True}, "--synthetic"),
        ({"dali": "x.tar"}, "--dali"),
        ({"dataset": [1], "labels": [1]}, "--dataset"),
        ({"ffcv": "x.beton", "decoder": "ffcv"}, "--decoder ffcv"),
        ({"ffcv": "x.beton", "dali_share": 0.5}, "--dali_share"),
        ({"data_path": ".", "transform": str}, "a transform"),
    ],
)
def test_pixels_that_others_make_are_not_kept(settings, flag, tmp_path, monkeypatch):
    monkeypatch.setattr("fastimae.loaders.create.check_source", lambda settings: None)
    with pytest.raises(DataError, match=f"--cache device .*{flag}"):
        create_loader(batch_size=8, cache="device", **settings)
