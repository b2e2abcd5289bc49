"""Samples that cannot be shown: replaced, counted, named, and too many of them."""

import io
import logging

import numpy as np
import pytest
import torch
from back_ends import DECODING
from PIL import Image

from fastimae.loaders import BetonWriter, DataError, create_loader, native_library
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import replace_failures

NOT_AN_IMAGE = b"\0" * 500


def damaged(data) -> dict[int, bytes]:
    return {3: NOT_AN_IMAGE, 10: data.payloads[10][:-200], 11: b"x", 29: data.payloads[29][:50]}


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("back_end", DECODING)
def test_bad_samples_are_replaced_counted_and_named(data, broken, back_end, copies, caplog):
    damage = damaged(data)
    files = broken(damage)
    plan = data.sampler(repeated_aug=copies)
    with (
        caplog.at_level(logging.WARNING, "fastimae"),
        files.loader(back_end, repeated_aug=copies) as loader,
    ):
        for epoch in range(3):
            loader.set_epoch(epoch)
            for number, batch in enumerate(loader):
                step = plan.step(epoch, number)
                assert np.array_equal(batch.key, step.key)
                for row, key in enumerate(step.key):
                    shown = next(i for i in np.roll(step.index, -row) if i not in damage)
                    assert batch.index[row] == shown and batch.labels[row] == data.labels[shown]
                    expected = data.reference(step.index[row], key, shown)
                    assert data.shows(back_end, batch.images[row], expected)
        state = loader.state_dict()
        names = [loader.sample_name(index) for index in damage]
    assert set(state["bad"]) == set(damage) and all(state["bad"].values())
    assert all(sum(name in line for line in caplog.messages) == 1 for name in names)
    with files.loader(back_end) as loader:
        loader.load_state_dict(state)
        assert loader.bad == state["bad"]


@pytest.mark.parametrize("back_end", DECODING)
@pytest.mark.parametrize("limit", [0, 2])
def test_too_many_bad_samples_stop_with_the_list(data, broken, back_end, limit, resources):
    with data.loader(back_end) as loader:
        next(iter(loader))
    files, before = broken(damaged(data)), resources.at_rest()
    with files.loader(back_end, max_bad_samples=limit) as loader:
        with pytest.raises(DataError, match="--max_bad_samples") as caught:
            for epoch in range(5):
                loader.set_epoch(epoch)
                list(loader)
        assert len(loader.bad) > limit and "\n" not in str(caught.value)
        assert all(loader.sample_name(index) in str(caught.value) for index in loader.bad)
    assert resources.settle_at(before)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("back_end", DECODING)
def test_a_batch_of_bad_samples_only(data, broken, back_end, copies):
    files = broken(dict.fromkeys(range(data.count), NOT_AN_IMAGE))
    count = data.batch_size // copies
    with (
        files.loader(back_end, repeated_aug=copies) as loader,
        pytest.raises(DataError, match=f"all {count} samples of a batch are bad"),
    ):
        next(iter(loader))


def test_a_sample_that_fails_in_one_crop_is_replaced_in_all_its_rows(data):
    """Damage may lie in one crop and not in another, but the sample is bad."""
    index, key = np.array([5, 6, 5, 6]), np.array([1, 2, 3, 4])
    out = np.zeros((4, *data.settings["input_size"], 3), np.uint8)

    def open_good(i):
        assert i != 5
        return Image.open(io.BytesIO(data.payloads[i]))

    crops = Crops(size=data.settings["input_size"])
    shown = replace_failures(open_good, crops, index, key, out, {0: "damaged"})
    assert shown.tolist() == [6, 6, 6, 6]
    for row in (0, 2):
        assert np.array_equal(out[row], data.reference(6, key[row], 6))


@pytest.mark.parametrize("back_end", DECODING)
def test_huge_images_are_bad(data, back_end, monkeypatch):
    """Also those that Pillow would only warn of."""
    sizes = [Image.open(io.BytesIO(payload)).size for payload in data.payloads]
    areas = np.array([width * height for width, height in sizes])
    limit = int(np.quantile(areas, 0.8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with data.loader(back_end) as loader:
        shown = torch.cat([batch.index for batch in loader]).numpy()
        asked = np.unique(loader.sampler.plan(0).order[: len(shown)])
    assert set(loader.bad) == set(asked[areas[asked] > limit].tolist())
    assert (areas[shown] <= limit).all()


def test_beton_sample_of_another_size_than_the_table_says(data, tmp_path):
    with BetonWriter(tmp_path / "f.beton") as writer:
        for i, payload in enumerate(data.payloads[:4]):
            width, height = Image.open(io.BytesIO(payload)).size
            writer.append(payload, height=height + (i == 2), width=width, label=i)
    with create_loader(ffcv=tmp_path / "f.beton", batch_size=4, mix_group=0) as loader:
        batch = next(iter(loader))
    assert 2 not in batch.index and "table" in loader.bad[2]


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
def test_a_stand_in_may_be_damaged_too(data, tmp_path):
    """Without checksums, damage shows only in windows that reach it."""
    with BetonWriter(tmp_path / "f.beton") as writer:
        for i, payload in enumerate(data.payloads[1:7]):
            width, height = Image.open(io.BytesIO(payload)).size
            if i < 5:
                payload = payload[: len(payload) * 2 // 3] if i else NOT_AN_IMAGE
            writer.append(payload, height=height, width=width, label=i, trailer=b"")
    settings = {"ffcv": tmp_path / "f.beton", "batch_size": 6, "mix_group": 0, "min_crop": 0.05}
    seen: set[int] = set()
    with create_loader(decoder="native", input_size=(24, 32), **settings) as loader:
        for epoch in range(60):
            loader.set_epoch(epoch)
            loader.bad.clear()
            batch = next(iter(loader))
            assert 0 not in batch.index
            assert not loader.bad.keys() & set(batch.index.tolist())
            seen |= loader.bad.keys()
    assert seen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("back_end", [name for name in DECODING if "folder" not in str(name)])
def test_a_flipped_bit_is_noticed_whatever_the_crop_shows(data, broken, back_end):
    payload = bytearray(data.payloads[4])
    payload[-20] ^= 1
    with broken({4: bytes(payload)}).loader(back_end) as loader:
        for epoch in range(4):
            loader.set_epoch(epoch)
            assert all(4 not in batch.index for batch in loader)
    assert "checksum" in loader.bad[4]
