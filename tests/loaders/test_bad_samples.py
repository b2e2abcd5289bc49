"""Samples that cannot be decoded: they are replaced, counted and named; too many are an error."""

import io
import logging
import os

import numpy as np
import pytest
import torch
from back_ends import DECODING
from older_beton import older_beton, older_trailer
from PIL import Image

from fastimae.loaders import BetonWriter, DataError, create_loader, native_library
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import replace_failures

OURS = [name for name in DECODING if "dataset" not in str(name)]
BETON = [name for name in OURS if "folder" not in str(name)]
NOT_AN_IMAGE = b"\0" * 500


def copies_for(back_end: str) -> int:
    """Return how often a loader repeats each sample: once in this thread, else twice."""
    return 1 if back_end.endswith("-0") else 2


def damaged(data) -> dict[int, bytes]:
    return {3: NOT_AN_IMAGE, 10: data.payloads[10][:-200], 11: b"x", 29: data.payloads[29][:50]}


@pytest.mark.parametrize("back_end", DECODING)
def test_bad_samples_are_replaced_counted_and_named(data, broken, back_end, caplog):
    damage, copies = damaged(data), copies_for(back_end)
    files = broken(damage)
    plan = data.sampler(repeated_aug=copies)
    with (
        caplog.at_level(logging.WARNING, "fastimae"),
        files.loader(back_end, repeated_aug=copies) as loader,
    ):
        for epoch in range(2):
            loader.set_epoch(epoch)
            batches = list(loader)
            assert len(batches) == len(plan) == data.count * copies // data.batch_size
            for number, batch in enumerate(batches):
                step = plan.step(epoch, number)
                assert np.array_equal(batch.key, step.key)
                for row, key in enumerate(step.key):
                    used = next(i for i in np.roll(step.index, -row) if i not in damage)
                    assert batch.index[row] == used and batch.labels[row] == data.labels[used]
                    expected = data.reference(step.index[row], key, used)
                    assert data.shows(back_end, batch.images[row], expected)
        state = loader.state_dict()
        names = [loader.sample_name(index) for index in damage]
    assert set(state["bad"]) == set(damage) and all(state["bad"].values())
    assert all(sum(name in line for line in caplog.messages) == 1 for name in names)
    with files.loader("pillow-0") as loader:
        loader.load_state_dict(state)
        assert loader.bad == state["bad"]


@pytest.mark.parametrize("back_end", DECODING)
def test_too_many_bad_samples_stop_with_the_list(data, broken, back_end, resources):
    data.epoch(back_end, 0)  # libraries start threads of their own when they are first used
    limit = 0 if back_end.endswith("-0") else 2
    files, before = broken(damaged(data)), resources.at_rest()
    with files.loader(back_end, max_bad_samples=limit) as loader:
        with pytest.raises(DataError, match="--max_bad_samples") as caught:
            for epoch in range(5):
                loader.set_epoch(epoch)
                list(loader)
        assert len(loader.bad) > limit and "\n" not in str(caught.value)
        assert all(loader.sample_name(index) in str(caught.value) for index in loader.bad)
    assert resources.settle_at(before)


@pytest.mark.parametrize("back_end", OURS)
def test_a_batch_of_bad_samples_only(data, broken, back_end):
    files = broken(dict.fromkeys(range(data.count), NOT_AN_IMAGE))
    copies = copies_for(back_end)
    count = data.batch_size // copies
    with (
        files.loader(back_end, repeated_aug=copies) as loader,
        pytest.raises(DataError, match=f"all {count} samples of a batch are bad"),
    ):
        next(iter(loader))


def test_a_sample_that_fails_in_one_crop_is_replaced_in_all_its_rows(data):
    """Damage may be in one crop and not in another, but the sample is bad."""
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
    """Even those that Pillow would only warn of."""
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


def older_file(data, trailers) -> bytearray:
    """Make an older file of the data, without a checksum of its table; trailers: one per sample."""
    sizes = [Image.open(io.BytesIO(payload)).size for payload in data.payloads]
    samples = [
        (payload, height, width, "jpg", label, trailer)
        for payload, (width, height), label, trailer in zip(
            data.payloads, sizes, data.labels, trailers, strict=True
        )
    ]
    return bytearray(older_beton(samples, 1 << 16))


def bad_samples(files, back_end, **settings) -> dict[int, str]:
    """Return the bad samples of two epochs, after checking that none of them is in a batch."""
    shown: set[int] = set()
    with files.loader(back_end, **settings) as loader:
        for epoch in range(2):
            loader.set_epoch(epoch)
            shown.update(*(batch.index.tolist() for batch in loader))
    assert not shown & loader.bad.keys()
    return loader.bad


@pytest.mark.parametrize("back_end", BETON)
def test_a_sample_without_a_checksum_among_others_is_bad(data, broken, back_end):
    trailers = [b"" if i == 7 else older_trailer(data.payloads[i]) for i in range(data.count)]
    files = broken({})
    files.beton.write_bytes(older_file(data, trailers))
    assert set(bad_samples(files, back_end)) == {7}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("back_end", BETON)
def test_zeros_from_one_sample_into_the_next(data, broken, back_end, older):
    """The zeros also overwrite the trailer of the first sample."""
    files = broken({})
    content = bytearray(files.beton.read_bytes())
    if older:
        vouched = 0 if back_end.endswith("-0") else 3
        content = older_file(data, [older_trailer(p, None, vouched) for p in data.payloads])
    first, second = (content.index(payload) for payload in data.payloads[20:22])
    content[(first + second) // 2 : second + 30] = bytes(second + 30 - (first + second) // 2)
    files.beton.write_bytes(content)
    assert set(bad_samples(files, back_end)) == {20, 21}


@pytest.mark.parametrize("back_end", BETON)
def test_a_jpeg_that_no_trailer_vouches_for_is_decoded_completely_once(data, broken, back_end):
    """So damage is found outside the crop, too, even in files without checksums."""
    if native_library.load() is None:
        pytest.skip(native_library.why_missing())
    files = broken({})
    content = older_file(data, [b""] * data.count)
    for i in (3, 30):
        last_rows = content.index(data.payloads[i]) + len(data.payloads[i]) * 9 // 10
        content[last_rows : last_rows + 2] = b"\xff\xd9"
        assert Image.open(io.BytesIO(content[content.index(data.payloads[i][:700]) :])).load()
    files.beton.write_bytes(content)
    assert set(bad_samples(files, back_end, min_crop=0.05)) == {3, 30}


@pytest.mark.parametrize("back_end", BETON)
def test_a_flipped_bit_is_noticed_with_any_crop(data, broken, back_end):
    payload = bytearray(data.payloads[4])
    payload[-20] ^= 1
    with broken({4: bytes(payload)}).loader(back_end) as loader:
        for epoch in range(3):
            loader.set_epoch(epoch)
            assert all(4 not in batch.index for batch in loader)
    assert "checksum" in loader.bad[4]


@pytest.mark.parametrize("source", ["data_path", "dali"])
def test_pipes_and_empty_files_in_folders_are_bad_samples(tmp_path, source):
    """Opening a pipe would wait for ever. A pipe that exists at the start is not listed at all."""
    if source == "dali":
        pytest.importorskip("nvidia.dali")
    Image.new("RGB", (32, 32)).save(tmp_path / "good.jpg")
    for name in ("empty.jpg", "pipe.jpg"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "early_pipe.jpg")
    settings = {"batch_size": 3, "input_size": (16, 16), "num_workers": 1, "mix_group": 0}
    with create_loader(**{source: tmp_path}, **settings) as loader:
        (tmp_path / "pipe.jpg").unlink()
        os.mkfifo(tmp_path / "pipe.jpg")
        next(iter(loader))
        assert sorted(loader.bad.values()) == ["empty file", "not a file"]
