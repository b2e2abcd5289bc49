"""The ffcv library's decoder as one of our loaders: exact on raw samples, close on JPEG.

The tests of this file share the loaders, since each takes seconds to compile.
"""

import importlib.util
import io
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from beton_by_hand import many_fields
from PIL import Image
from quick_ffcv import import_ffcv

from fastimae.loaders import BetonWriter, DataError, DevicePrefetch, create_loader
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings

COUNT, BATCH, SIZE = 40, 8, (24, 32)
RAW = set(range(0, COUNT, 3))
ZEROED, TRUNCATED, OTHER_RAW, OTHER_JPEG = 7, 16, 12, 13
BAD = {ZEROED, TRUNCATED, OTHER_RAW, OTHER_JPEG}
"""The last two can be decoded, but differ from what was written."""

needs_ffcv = pytest.mark.skipif(
    importlib.util.find_spec("ffcv") is None, reason="the ffcv library is not installed"
)


def picture(index: int) -> Image.Image:
    rng = np.random.default_rng(index)
    height, width = rng.integers(40, 90, 2)
    rough = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return rough.resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Write a .beton with raw and JPEG samples, some of them damaged."""
    path = tmp_path_factory.mktemp("ffcv") / "mixed.beton"
    with BetonWriter(path) as writer:
        for i in range(COUNT):
            image, file = picture(i), io.BytesIO()
            image.save(file, "JPEG", quality=95, subsampling=0)
            data = image.tobytes() if i in RAW else file.getvalue()
            data = {ZEROED: bytes(len(data)), TRUNCATED: data[: len(data) // 2]}.get(i, data)
            mode = "raw" if i in RAW else "jpg"
            trailer = make_trailer(b"others") if i in (OTHER_RAW, OTHER_JPEG) else None
            writer.append(
                data, height=image.height, width=image.width, mode=mode, label=i % 4,
                trailer=trailer,
            )  # fmt: skip
    return path


def make(path, decoder="ffcv", **settings):
    defaults = {"batch_size": BATCH, "input_size": SIZE, "mix_group": 2, "seed": 3}
    return create_loader(ffcv=path, decoder=decoder, **{**defaults, **settings})


@pytest.fixture(scope="module")
def loaders(path):
    """Return {number of workers: loader}."""
    import_ffcv()
    with make(path, num_workers=0) as calling_thread, make(path, num_workers=2) as threads:
        yield {0: calling_thread, 2: threads}


def epoch_of(loader, epoch: int) -> list:
    loader.set_epoch(epoch)
    return list(loader)


def same(first: list, second: list) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.index, b.index)
        for a, b in zip(first, second, strict=True)
    )


@needs_ffcv
def test_raw_samples_equal_opencv(loaders):
    import cv2

    seen = set()
    for batch in epoch_of(loaders[2], 0):
        for pixels, index, key in zip(batch.images, batch.index, batch.key, strict=True):
            if int(index) in RAW:
                image = np.asarray(picture(int(index)))
                windows, flip = Crops(size=SIZE).draw(
                    key.numpy()[None], image.shape[:1], image.shape[1:2]
                )
                top, left, height, width = windows[0]
                part = image[top : top + height, left : left + width]
                part = cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA)
                assert np.array_equal(pixels, part[:, ::-1] if flip[0] else part)
                seen.add((int(index), bool(flip[0])))
    assert {mirrored for _, mirrored in seen} == {True, False}


@needs_ffcv
def test_batches_are_those_of_pillow(path, loaders):
    """Same samples, windows, flips, replacements; pixels differ by decoder and resize."""
    with make(path, "pillow") as reference:
        for epoch in range(2):
            pairs = zip(epoch_of(loaders[2], epoch), epoch_of(reference, epoch), strict=True)
            for ours, exact in pairs:
                for name in ("labels", "index", "key", "partner", "step_key"):
                    assert torch.equal(getattr(ours, name), getattr(exact, name))
                difference = (ours.images.int() - exact.images.int()).abs().float()
                assert difference.mean() < 1.5
        assert set(loaders[2].bad) == set(reference.bad) == BAD
        for i in (OTHER_RAW, OTHER_JPEG):
            assert "the checksum differs" in loaders[2].bad[i]


@needs_ffcv
def test_same_for_any_number_of_workers_and_after_resuming(loaders):
    """Batches kept through the epoch also equal batches copied at once."""
    expected = [b.images.clone() for b in epoch_of(loaders[0], 4)]
    kept = epoch_of(loaders[2], 4)
    assert all(torch.equal(a, b.images) for a, b in zip(expected, kept, strict=True))
    loader = loaders[2]
    loader.set_epoch(4)
    for _ in loader:
        break
    state = loader.state_dict()
    loader.set_epoch(1)
    loader.load_state_dict(state)
    assert same(list(loader), kept[1:])


@needs_ffcv
def test_leaves_threads_and_global_settings_alone(loaders):
    loader = loaders[2]
    loader.set_epoch(0)
    before = threading.active_count()
    torch_threads, numpy_state = torch.get_num_threads(), np.random.get_state()[1].copy()  # noqa: NPY002
    for _ in loader:
        break
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert torch.get_num_threads() == torch_threads
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@needs_ffcv
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_pipeline_reaches_the_caller(loaders, workers, monkeypatch):
    """The library's own loop would wait for ever."""

    def fail(number, index, *_):
        if third in index:
            raise ZeroDivisionError("in the pipeline")

    loader = loaders[workers]
    loader.set_epoch(0)
    third = loader.sampler.step(0, 0).index[2]
    monkeypatch.setattr(loader._pipeline._epoch, "run_pipeline", fail)
    with pytest.raises(DataError, match="in the pipeline") as caught:
        next(iter(loader))
    assert f"--decoder ffcv failed at sample {third} of {loader.reader.path}" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@needs_ffcv
def test_loaders_leave_no_threads(path, resources):
    """Neither Python threads, which `resources` counts, nor numba's."""
    counts = []
    for _ in range(3):
        with make(path, num_workers=1) as loader:
            next(iter(loader))
        counts.append((resources.at_rest()[0], len(list(Path("/proc/self/task").iterdir()))))
    assert counts == counts[:1] * 3


@needs_ffcv
def test_examples_and_fixed_batches(path, loaders):
    """They count no bad samples and change no epoch."""
    loader = loaders[2]
    loader.set_epoch(1)
    before = loader.state_dict()
    example, fixed = DevicePrefetch(loader, "cpu").example(), loader.fixed_batch(1000)
    assert loader.state_dict() == before
    batch = next(iter(loader))
    assert (example.images.shape, example.images.dtype) == (batch.images.shape, batch.images.dtype)
    assert torch.equal(example.key, batch.key)
    with make(path, "pillow") as reference:
        exact = reference.fixed_batch(1000)
    for name in ("labels", "index", "key", "partner"):
        assert torch.equal(getattr(fixed, name), getattr(exact, name))
    assert set(fixed.index.tolist()) == set(range(COUNT)) - BAD
    assert (fixed.images.float() - exact.images.float()).abs().mean() < 1.5


@needs_ffcv
@pytest.mark.parametrize("settings", [{"crop": "none"}, {"crop_ratio": (0.4, 3.0)}], ids=str)
def test_other_windows_are_those_of_pillow(path, loaders, settings, monkeypatch):
    with make(path, "pillow", **settings) as reference:
        exact = epoch_of(reference, 3)
        monkeypatch.setattr(loaders[2], "crops", reference.crops)
    for batch, expected in zip(epoch_of(loaders[2], 3), exact, strict=True):
        assert (batch.images.float() - expected.images.float()).abs().mean() < 2


@needs_ffcv
def test_another_size_compiles_again(path):
    small = SIZE[0] // 2, SIZE[1] // 2
    with make(path, "pillow", input_size=small) as pillow, make(path, num_workers=1) as loader:
        assert next(iter(loader)).images.shape[1:3] == SIZE
        loader.set_epoch(0)
        loader.set_image_size(small)
        got, exact = next(iter(loader)), next(iter(pillow))
    assert torch.equal(got.key, exact.key)
    assert (got.images.float() - exact.images.float()).abs().mean() < 6


@needs_ffcv
def test_the_image_field_that_is_asked_for(tmp_path):
    """Not the file's first one. A shade encodes the field and the sample."""
    fields = [("label", "int"), ("left", "image"), ("right", "image")]
    (tmp_path / "a.beton").write_bytes(many_fields(fields, {"label": [2, 0, 1]}))
    settings = {"batch_size": 3, "mix_group": 0, "input_size": (2, 2), "num_workers": 0}
    with make(tmp_path / "a.beton", image_field="right", **settings) as loader:
        batch = next(iter(loader))
    assert batch.images[batch.index.argsort(), 0, 0, 0].tolist() == [80, 81, 82]


@needs_ffcv
@pytest.mark.parametrize("where", ["the order", "a window"])
def test_errors_of_the_plan_reach_the_caller(loaders, where, monkeypatch):
    real, calls = loaders[2].sampler.step, []

    def step(epoch, number):
        if number == 2:
            raise MemoryError("on purpose")
        return real(epoch, number)

    def draw(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("on purpose")
        return Crops(size=SIZE).draw(*arguments)

    with monkeypatch.context() as patch, pytest.raises(MemoryError, match="on purpose"):
        if where == "the order":
            patch.setattr(loaders[2].sampler, "step", step)
        else:
            patch.setattr(loaders[2], "crops", SimpleNamespace(draw=draw, shape=(*SIZE, 3)))
        epoch_of(loaders[2], 0)
    assert len(epoch_of(loaders[2], 0)) == len(loaders[2])


def rank_of(loader, rank, world):
    """Make `loader` that of `rank`; its pipeline takes batches smaller than it was made for."""
    labels = loader.sampler.labels
    settings = LoaderSettings(batch_size=BATCH // world, mix_group=2, seed=3)
    loader.sampler = Sampler(labels, settings, rank=rank, world_size=world)
    return loader


def joined(ranks, rows=("index", "key", "images")):
    """Return the global batches of the epochs of several ranks."""
    return [
        [torch.cat([getattr(part, name) for part in parts]) for name in rows]
        for parts in zip(*ranks, strict=True)
    ]


@pytest.fixture
def one_rank(loaders):
    """Return a loader whose sampler a test may replace."""
    sampler = loaders[2].sampler
    yield loaders[2]
    loaders[2].sampler = sampler


@needs_ffcv
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_batches_of_one(one_rank, world):
    """Pixels are equal, except where the replacement of a damaged sample depends on the rank's
    batch."""
    whole = joined([epoch_of(one_rank, 2)], ("key", "index", "images"))
    ranks = [epoch_of(rank_of(one_rank, rank, world), 2) for rank in range(world)]
    asked = [set(torch.cat([batch.key for batch in rank]).tolist()) for rank in ranks]
    assert sum(map(len, asked)) == len(set().union(*asked)) == len(whole) * BATCH == COUNT
    replaced = 0
    for expected, found in zip(whole, joined(ranks, ("key", "index", "images")), strict=True):
        same_sample = expected[1] == found[1]
        replaced += int((~same_sample).sum())
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[2][same_sample], found[2][same_sample])
    assert replaced <= len(BAD)


@needs_ffcv
@pytest.mark.parametrize("before, after", [(1, 4), (4, 2), (2, 1)])
def test_resumes_with_another_number_of_ranks(one_rank, before, after):
    rank_of(one_rank, 0, 1)
    expected = [batch.key for batch in epoch_of(one_rank, 5)][2:]
    rank_of(one_rank, before - 1, before).set_epoch(5)
    for _ in zip(range(2), one_rank, strict=False):
        pass
    state, ranks = one_rank.state_dict(), []
    for rank in range(after):
        rank_of(one_rank, rank, after).load_state_dict(state)
        ranks.append(list(one_rank))
    for keys, (found,) in zip(expected, joined(ranks, ("key",)), strict=True):
        assert torch.equal(keys, found)


@needs_ffcv
def test_images_over_the_limit_are_not_decoded(path, monkeypatch):
    areas = np.array([picture(i).width * picture(i).height for i in range(COUNT)])
    limit = int(np.median(areas))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with make(path, num_workers=0) as loader:
        shown = torch.cat([batch.index for batch in loader]).numpy()
    assert (areas[shown] <= limit).all()
    assert set(loader.bad) == set(np.flatnonzero(areas > limit)) | BAD


def strip_tables(jpeg: bytes) -> bytes:
    """Remove the Huffman tables, as in a frame of Motion-JPEG; decoders take the usual ones."""
    while (start := jpeg.find(b"\xff\xc4")) > 0:
        end = start + 2 + int.from_bytes(jpeg[start + 2 : start + 4])
        jpeg = jpeg[:start] + jpeg[end:]
    return jpeg


@needs_ffcv
def test_the_library_gets_no_jpeg_that_it_might_read_differently(tmp_path):
    """Nor one of another size than the table says: that would leave a part of the buffer as it was.

    The library's TurboJPEG handle keeps tables from image to image; here the first one sets them.
    """
    cmyk, plain = io.BytesIO(), io.BytesIO()
    picture(1).convert("CMYK").save(cmyk, "JPEG")
    picture(1).save(plain, "JPEG")
    no_tables = strip_tables(plain.getvalue())
    assert Image.open(io.BytesIO(no_tables)).load() is not None
    optimised = io.BytesIO()
    picture(1).save(optimised, "JPEG", quality=20, optimize=True)
    size = {"height": picture(1).height, "width": picture(1).width}
    with BetonWriter(tmp_path / "odd.beton") as writer:
        for data in (optimised.getvalue(), no_tables, cmyk.getvalue(), plain.getvalue()):
            writer.append(data, **size, label=0)
        writer.append(plain.getvalue(), **{**size, "height": size["height"] + 1}, label=0)
    with make(tmp_path / "odd.beton", batch_size=5, mix_group=0, num_workers=1) as loader:
        shown = set(next(iter(loader)).index.tolist())
    assert (shown, set(loader.bad)) == ({0, 3}, {1, 2, 4})
    assert all("--decoder native" in reason for reason in loader.bad.values())


@needs_ffcv
def test_bytes_behind_the_end_of_a_jpeg_do_no_harm(tmp_path):
    """fastimae-convert passes such files through: some phones append data there."""
    file = io.BytesIO()
    picture(1).save(file, "JPEG")
    size = {"height": picture(1).height, "width": picture(1).width}
    with BetonWriter(tmp_path / "trailing.beton") as writer:
        for more in (b"", b"SEFT and so on", bytes(1000)):
            writer.append(file.getvalue() + more, **size, label=0)
    with make(tmp_path / "trailing.beton", batch_size=3, mix_group=0, num_workers=1) as loader:
        assert set(next(iter(loader)).index.tolist()) == {0, 1, 2}
    assert not loader.bad


def test_gray_is_refused(path):
    with pytest.raises(DataError, match="--in_chans"):
        make(path, in_chans=1)


def test_missing_library_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv.reader", None)
    with pytest.raises(DataError, match=r"fastimae\[ffcv\]") as caught:
        make(path)
    assert "--decoder" in str(caught.value)
