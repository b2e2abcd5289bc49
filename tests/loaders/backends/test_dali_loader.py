"""The DALI loader's specialities: sources, zero copies, files that DALI refuses, its errors.

What all back ends share is tested in test_loaders.py.
"""

import io
import logging
import sys
import tarfile
import time
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image

from fastimae.loaders import BetonWriter, DataError, create_loader
from fastimae.loaders.backends.dali_source import find_jpegs
from fastimae.loaders.order.sampler import Sampler

INSTALLED = any(part.name.startswith("nvidia-dali") for part in metadata.distributions())
needs_dali = pytest.mark.skipif(not INSTALLED, reason="DALI is not installed")


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(data, tmp_path):
    """Write the data as two WebDataset shards."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for i in range(shard * data.count // 2, (shard + 1) * data.count // 2):
                add(tar, f"{i:03d}.jpg", data.payloads[i])
                add(tar, f"{i:03d}.cls", str(data.labels[i]).encode())
    return str(tmp_path / "shard-{0..1}.tar")


@needs_dali
def test_every_source_gives_the_same_run(data, shards):
    with data.loader("dali-2") as loader:
        expected = list(loader)
    for source in (data.folder, shards):
        with create_loader(dali=source, num_workers=2, **data.settings) as loader:
            assert data.same(expected, list(loader))


@needs_dali
def test_memory_is_dalis_own(data, monkeypatch):
    """No copy on the way to torch."""
    addresses = []
    import_tensor = torch.from_dlpack

    def remember(tensor):
        addresses.append(tensor.data_ptr())
        return import_tensor(tensor)

    with data.loader("dali-2") as loader:
        monkeypatch.setattr(torch, "from_dlpack", remember)
        kept = list(loader)
    assert [batch.images.data_ptr() for batch in kept] == addresses
    assert len(set(addresses)) == len(kept)


@needs_dali
def test_pillow_decodes_other_formats(data, tmp_path):
    """PNG, CMYK and a file with an EXIF rotation, among plain JPEGs."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = rough.resize((60, 45), Image.Resampling.BILINEAR)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    (tmp_path / "c").mkdir()
    for i, payload in enumerate(data.payloads[:5]):
        (tmp_path / f"c/plain{i}.jpg").write_bytes(payload)
    picture.save(tmp_path / "c/a.png")
    picture.convert("CMYK").save(tmp_path / "c/b.jpg")
    picture.save(tmp_path / "c/d.jpg", exif=rotated)
    settings = {**data.settings, "batch_size": 8, "mix_group": 0}
    with (
        create_loader(dali=tmp_path, num_workers=1, **settings) as ours,
        create_loader(data_path=tmp_path, num_workers=0, **settings) as exact,
    ):
        (a,), (b,) = list(ours), list(exact)
    assert torch.equal(a.index, b.index)
    for row, index in enumerate(a.index.tolist()):
        host = ours.sample_name(index).endswith(("a.png", "b.jpg"))
        assert torch.equal(a.images[row], b.images[row]) or not host
        assert data.shows("dali", a.images[row], b.images[row].numpy())


@needs_dali
@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_dali_refuses_goes_to_pillow(data, monkeypatch, workers, stops, caplog):
    """But DALI still decodes the rest of the batch, and the batches after it.

    stops: leave the iteration after each batch, while others are in flight.
    """
    refused = {4, 5, 30}
    with data.loader(f"dalifolder-{workers}") as loader:
        expected = list(loader)
        jpeg = loader.source.jpeg

        def cut_short(index):
            found = jpeg(index)
            return found._replace(data=found.data[:-200]) if index in refused else found

        monkeypatch.setattr(loader.source, "jpeg", cut_short)
        loader.set_epoch(0)
        with caplog.at_level(logging.DEBUG, "fastimae"):
            batches = [next(iter(loader)) for _ in expected] if stops else list(loader)
        assert loader.bad == {}
        names = {loader.sample_name(index) for index in refused}
    refused_names = set()
    for batch, before in zip(batches, expected, strict=True):
        assert torch.equal(batch.index, before.index)
        for row, (index, key) in enumerate(zip(batch.index.tolist(), batch.key, strict=True)):
            if index in refused:
                refused_names.add(loader.sample_name(index))
                assert np.array_equal(batch.images[row], data.reference(index, int(key), index))
            else:
                assert torch.equal(batch.images[row], before.images[row])
    assert (
        refused_names == {n for n in names if any(n in line for line in caplog.messages)} != set()
    )


@needs_dali
def test_a_dali_that_refuses_everything_is_an_error(data, monkeypatch):
    with data.loader("dalifolder-2") as loader:
        jpeg = loader.source.jpeg
        monkeypatch.setattr(loader.source, "jpeg", lambda i: jpeg(i)._replace(data=b"\xff\xd8\xff"))
        with pytest.raises(DataError, match=r"--dali: DALI refuses batch after batch: \S"):
            list(loader)


@needs_dali
def test_replacements_of_samples_that_only_pillow_finds_bad(data, tmp_path):
    """A file without checksums, whose quantisation tables have become comments."""
    broken = data.payloads[2].replace(b"\xff\xdb", b"\xff\xfe")
    with BetonWriter(tmp_path / "f.beton") as writer:
        for i, payload in enumerate(data.payloads[:8]):
            width, height = Image.open(io.BytesIO(payload)).size
            writer.append(
                broken if i == 2 else payload, height=height, width=width, label=i, trailer=b""
            )
    with create_loader(dali=tmp_path / "f.beton", num_workers=2, **data.settings) as loader:
        (batch,) = list(loader)
    assert loader.bad.keys() == {2} and 2 not in batch.index
    for row, used in enumerate(batch.index.tolist()):
        expected = data.reference(used, int(batch.key[row]), used)
        assert data.shows("dali", batch.images[row], expected)


@needs_dali
def test_a_replacement_may_be_one_that_pillow_cannot_read(data, monkeypatch):
    """DALI may have decoded an intact part of it. Then the next sample is the replacement."""
    index = data.sampler().step(0, 0).index.tolist()
    with data.loader("dalifolder-2") as loader:
        jpeg, open_image = loader.source.jpeg, loader.source.open

        def fail_for_two(i):
            if i in index[:2]:
                raise OSError("damaged")
            return open_image(i)

        monkeypatch.setattr(loader.source, "open", fail_for_two)
        monkeypatch.setattr(loader.source, "jpeg", lambda i: jpeg(i) if i != index[0] else None)
        batch = next(iter(loader))
    assert batch.index.tolist() == [index[2], index[2], *index[2:]]
    assert loader.bad.keys() == set(index[:2])
    for row in range(2):
        expected = data.reference(index[row], int(batch.key[row]), index[2])
        assert np.array_equal(batch.images[row], expected)


@needs_dali
def test_two_decoders_share_the_samples(data):
    """DALI decodes its share of the rows, as it would alone; the rest is exact."""
    with data.loader("dalishare-2") as shared, data.loader("dali-2") as dali:
        pairs = [pair for epoch in range(8) for pair in epochs_of(shared, dali, epoch)]
    by_dali = 0
    for ours, theirs in pairs:
        for row, (index, key) in enumerate(zip(ours.index.tolist(), ours.key, strict=True)):
            if np.array_equal(ours.images[row], data.reference(index, int(key), index)):
                continue
            by_dali += 1
            assert torch.equal(ours.images[row], theirs.images[row])
    share = by_dali / sum(len(batch) for batch, _ in pairs)
    assert abs(share - 0.4) < 0.1  # 320 samples: 3.6 standard deviations


@needs_dali
def test_both_decoders_may_ask_for_a_plan_at_once(data, monkeypatch):
    """DALI reads ahead in its own thread, at another pace than the decoder of --ffcv."""
    plan = Sampler.step

    def slow_plan(*arguments):
        time.sleep(0.002)
        return plan(*arguments)

    monkeypatch.setattr(Sampler, "step", slow_plan)
    settings = {"batch_size": 2, "mix_group": 2, "num_workers": 2, "input_size": (24, 32)}
    for seed in range(4):
        with create_loader(
            ffcv=data.beton, decoder="pillow", dali_share=0.4, seed=seed, **settings
        ) as loader:
            assert len(list(loader)) == len(loader)


def epochs_of(first, second, epoch):
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    return list(zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nothing.beton", "nothing.beton"),
        ("nothing", "--dali: there is no file or folder"),
        ("empty", "--dali: no images in .*empty"),
        ("packed.tar.gz", "is compressed: unpack it"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, source, words):
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "packed.tar.gz", "w:gz") as tar:
        add(tar, "0.jpg", b"x")
    with pytest.raises(DataError, match=words):
        find_jpegs(tmp_path / source)


def test_missing_library_is_named(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(DataError, match=r"--dali needs NVIDIA DALI .*fastimae\[dali\]"):
        data.loader("dali-0")


@needs_dali
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_one_error(data):
    with pytest.raises(DataError, match=r"--dali: DALI does not start: \S") as caught:
        data.loader("dali-0", device="cuda")
    assert "\n" not in str(caught.value)


def test_what_is_left_out_is_named_in_a_few_lines(tmp_path, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(30):
            add(tar, f"{number}.jpg", b"x")
        add(tar, "0.cls", b"0")
    assert len(find_jpegs(tmp_path / "a.tar").labels) == 1
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 21
    assert lines[-1] == "--dali: 9 more are left out"
