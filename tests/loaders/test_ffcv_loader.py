"""The ffcv library's decoder behind our protocol: exact on raw samples, close on JPEG.

The loaders are shared by the tests of this file, since each takes seconds to compile.
"""

import importlib.util
import io
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from fastimae.loaders import BetonWriter, DataError, create_loader
from fastimae.loaders.crops import draw_windows

COUNT, BATCH, SIZE = 24, 6, (24, 32)
RAW = set(range(0, COUNT, 3))
ZEROED, TRUNCATED = 7, 16

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
    """A .beton with raw and JPEG samples, two of them damaged."""
    path = tmp_path_factory.mktemp("ffcv") / "mixed.beton"
    with BetonWriter(path) as writer:
        for i in range(COUNT):
            image, file = picture(i), io.BytesIO()
            image.save(file, "JPEG", quality=95, subsampling=0)
            data = image.tobytes() if i in RAW else file.getvalue()
            data = {ZEROED: bytes(len(data)), TRUNCATED: data[: len(data) // 2]}.get(i, data)
            mode = "raw" if i in RAW else "jpg"
            writer.append(data, height=image.height, width=image.width, mode=mode, label=i % 4)
    return path


def make(path, decoder="ffcv", **settings):
    defaults = {"batch_size": BATCH, "input_size": SIZE, "mix_group": 2, "seed": 3}
    return create_loader(ffcv=path, decoder=decoder, **{**defaults, **settings})


@pytest.fixture(scope="module")
def loaders(path):
    """{number of workers: loader}."""
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
                windows, flip = draw_windows(
                    key.numpy()[None], image.shape[:1], image.shape[1:2], (0.2, 1.0)
                )
                top, left, height, width = windows[0]
                part = image[top : top + height, left : left + width]
                part = cv2.resize(part, SIZE[::-1], interpolation=cv2.INTER_AREA)
                assert np.array_equal(pixels, part[:, ::-1] if flip[0] else part)
                seen.add((int(index), bool(flip[0])))
    assert {mirrored for _, mirrored in seen} == {True, False}


@needs_ffcv
def test_shows_what_pillow_shows(path, loaders):
    """Same samples, windows, flips, stand-ins; pixels but for decoder and resize."""
    with make(path, "pillow") as reference:
        for epoch in range(2):
            pairs = zip(epoch_of(loaders[2], epoch), epoch_of(reference, epoch), strict=True)
            for ours, exact in pairs:
                for name in ("labels", "index", "key", "partner", "step_key"):
                    assert torch.equal(getattr(ours, name), getattr(exact, name))
                difference = (ours.images.int() - exact.images.int()).abs().float()
                assert difference.mean() < 1.5
        assert set(loaders[2].bad) == set(reference.bad) == {ZEROED, TRUNCATED}


@needs_ffcv
def test_same_for_any_number_of_workers_and_after_resuming(loaders):
    """Also compares batches kept through the epoch with batches copied at once."""
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

    def fail(*_):
        raise ZeroDivisionError("in the pipeline")

    loader = loaders[workers]
    loader.set_epoch(0)
    monkeypatch.setattr(loader._pipeline._epoch, "run_pipeline", fail)
    with pytest.raises(ZeroDivisionError, match="in the pipeline"):
        next(iter(loader))


@needs_ffcv
def test_images_over_the_limit_are_not_decoded(path, monkeypatch):
    areas = np.array([picture(i).width * picture(i).height for i in range(COUNT)])
    limit = int(np.median(areas))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with make(path, num_workers=0) as loader:
        shown = torch.cat([batch.index for batch in loader]).numpy()
    assert (areas[shown] <= limit).all()
    assert set(loader.bad) == set(np.flatnonzero(areas > limit)) | {ZEROED, TRUNCATED}


def test_gray_is_refused(path):
    with pytest.raises(DataError, match="--in_chans"):
        make(path, in_chans=1)


def test_missing_library_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ffcv.fields", None)
    with pytest.raises(DataError, match=r"fastimae\[ffcv\]") as caught:
        make(path)
    assert "--decoder" in str(caught.value)
