"""The ffcv library reads files written here, and the other way round."""

import importlib.util
import io
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.convert.run import ConvertOptions, convert

pytestmark = [
    pytest.mark.ffcv,
    pytest.mark.skipif(
        importlib.util.find_spec("ffcv") is None, reason="the ffcv library is not installed"
    ),
]
SIDE = Path(__file__).with_name("ffcv_side.py")
_side = runpy.run_path(str(SIDE))
HEIGHT, WIDTH, COUNT = _side["HEIGHT"], _side["WIDTH"], _side["COUNT"]
MODES, WRITTEN, pixels = _side["MODES"], _side["WRITTEN"], _side["pixels"]
LABEL_FACTOR = dict(zip(WRITTEN, (3, 3, 1, None), strict=True))
"""Factor from the number of a picture to its expected label."""


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """Folders: our files, each with what ffcv read from it beside it; and files of ffcv.

    One of our pictures is gray, one CMYK, one PNG.
    """
    root, theirs = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("theirs")
    kinds = {1: ("L", "JPEG"), 2: ("CMYK", "JPEG"), 3: ("RGB", "PNG")}
    for number in range(COUNT):
        mode, kind = kinds.get(number, ("RGB", "JPEG"))
        folder = root / "src" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(number)).convert(mode).save(folder / f"{number}.jpg", kind)
    paths = []
    for name, src in (("labelled", root / "src"), ("unlabelled", root / "src" / "class1")):
        for mode in MODES:
            paths.append(root / f"{name}-{mode}.beton")
            # Small pages, so that there is more than one.
            options = {"mode": mode, "page_size": 1 << 12, "workers": 1}
            convert(ConvertOptions(src=str(src), out=paths[-1], **options))
    subprocess.run([sys.executable, SIDE, theirs, *paths], check=True, timeout=150)
    return root, theirs


@pytest.fixture
def ours(exchanged):
    return exchanged[0]


@pytest.fixture
def theirs(exchanged):
    return exchanged[1]


def own_pixels(reader, index):
    data = bytes(reader.read(index))
    if reader.is_jpeg[index]:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 3).astype(int)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
def test_ffcv_reads_our_files(ours, name, mode):
    found = np.load(ours / f"{name}-{mode}.npz")
    with BetonReader(ours / f"{name}-{mode}.beton") as reader:
        if name == "labelled":
            assert found["label"].ravel().tolist() == reader.labels.tolist()
            assert reader.class_names == ["class0", "class1"]  # in the file, unseen by the library
        else:
            assert found.files == ["image", "quasi"]
            assert set(reader.labels) == {-1}
        assert len(found["image"]) == len(reader)
        for index, image in enumerate(found["image"]):
            difference = np.abs(image - own_pixels(reader, index))
            # ffcv uses libjpeg's fast, less exact transform.
            assert difference.max() <= (0 if mode == "raw" else 24)
            assert difference.mean() < 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["labelled", "unlabelled"])
def test_ffcv_finds_each_sample_once_page_by_page(ours, name, mode):
    """Trailers are allocations, too, but its quasi-random order must not take them for samples."""
    found = np.load(ours / f"{name}-{mode}.npz")
    assert sorted(map(bytes, found["quasi"])) == sorted(map(bytes, found["image"]))
    with BetonReader(ours / f"{name}-{mode}.beton") as reader:
        assert reader.trailer_sizes.all() and reader.has_record


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", WRITTEN)
def test_we_read_files_of_ffcv(theirs, mode, names):
    path = theirs / ("-".join([mode, *names]) + ".beton")
    factor = LABEL_FACTOR[names]
    with BetonReader(path) as reader:
        expected = [-1 if factor is None else factor * number for number in range(COUNT)]
        assert reader.labels.tolist() == expected
        assert reader.is_jpeg.tolist() == [mode == "jpg"] * COUNT
        for index in range(COUNT):
            difference = np.abs(own_pixels(reader, index) - pixels(index))
            assert difference.mean() <= (0 if mode == "raw" else 3)
        assert [reader.trailer(index) for index in range(COUNT)] == [None] * COUNT
        assert [reader.problem(index) for index in range(COUNT)] == [None] * COUNT
        assert not reader.has_record


def test_files_of_ffcv_pass_verification(theirs):
    path = theirs / "jpg-note-image.beton"
    report = convert(ConvertOptions(src=str(path), verify=True, workers=1))
    assert (report.samples, report.exit_status()) == (COUNT, 0)
    assert "every sample decodes\n  the file has no checksums" in report.summary()
    assert "labels have no checksum: convert again" in report.summary()
