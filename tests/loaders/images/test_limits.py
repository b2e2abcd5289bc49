"""The pixel limit, which conversion, verification and every reader apply before they decode."""

import io
import subprocess
import sys

import numpy as np
import pytest
from back_ends import WORKING
from PIL import Image

from fastimae.arguments import parse_training
from fastimae.build import build_loader
from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.options.base import EvalOptions
from fastimae.loaders.convert.encode import EncodeSettings, encode
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.limits import limited_to, max_pixels, open_image, set_max_pixels
from fastimae.settings import ConfigError

LIMIT, SMALL = 5000, (50, 100)
SLIGHTLY, FAR = (70, 80), (200, 90)
"""Over the limit; of FAR, over twice the limit, Pillow says so itself."""
REASON = f"pixels, over --max_pixels {LIMIT}"


def file_bytes(size, kind="JPEG"):
    file = io.BytesIO()
    Image.new("RGB", size, (1, 2, 3)).save(file, kind)
    return file.getvalue()


def cut(data):
    """Any decoder says that it is cut short."""
    return data[:-20]


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("size", [SLIGHTLY, FAR])
def test_a_large_image_is_skipped_before_it_is_decoded(kind, size):
    data = file_bytes(size, kind)
    data = cut(data) if kind not in ("TIFF", "WEBP") else data
    with pytest.raises(SkipImage, match=f"^{size[0] * size[1]} {REASON}$"):
        encode(data, EncodeSettings(max_pixels=LIMIT))
    assert encode(file_bytes(SMALL, kind), EncodeSettings(max_pixels=LIMIT)).width == 50


@pytest.mark.parametrize("size", [SLIGHTLY, FAR])
def test_a_flag_may_raise_the_limit(limit, size):
    settings = EncodeSettings(max_pixels=size[0] * size[1])
    assert encode(file_bytes(size), settings).height == size[1]
    assert max_pixels() == LIMIT, "it holds for one call"


def tree(root):
    (root / "c").mkdir(parents=True)
    for name, size in {"small": SMALL, "slightly": SLIGHTLY, "far": FAR}.items():
        (root / "c" / f"{name}.jpg").write_bytes(file_bytes(size))
    return root


def test_convert_and_verify_agree(tmp_path):
    """Also in worker processes."""
    root, out = tree(tmp_path / "src"), tmp_path / "a.beton"
    report = convert(
        ConvertOptions(src=str(root), out=out, workers=2, max_pixels=LIMIT, verify=True)
    )
    skipped = {name.rpartition("/")[2]: reason for name, reason in report.skipped}
    assert skipped == {"slightly.jpg": f"5600 {REASON}", "far.jpg": f"18000 {REASON}"}
    assert (report.samples, report.bad) == (1, [])
    everything = tmp_path / "b.beton"
    for mode in ("jpg", "raw"):
        options = {"workers": 2, "verify": True, "overwrite": True, "mode": mode}
        report = convert(ConvertOptions(src=str(root), out=everything, **options))
        assert (report.samples, report.bad) == (3, [])
        report = convert(
            ConvertOptions(src=str(everything), workers=2, verify=True, max_pixels=LIMIT)
        )
        assert sorted(reason for _, reason in report.bad) == [f"18000 {REASON}", f"5600 {REASON}"]


def test_a_conversion_with_another_limit_starts_over(tmp_path, caplog):
    """Otherwise it would keep images that are over the limit."""
    from fastimae.loaders.convert.run import _fingerprint
    from fastimae.loaders.sources.find import find_source

    source = find_source(str(tree(tmp_path / "src")), None)
    options = [ConvertOptions(src="x", max_pixels=value) for value in (LIMIT, LIMIT + 1, None)]
    assert len({_fingerprint(source, each) for each in options}) == 3


@pytest.mark.parametrize("back_end", WORKING)
def test_loaders_call_it_a_bad_sample(data, back_end, monkeypatch):
    """Images over the limit, and over twice the limit."""
    sizes = [Image.open(io.BytesIO(payload)).size for payload in data.payloads]
    areas = np.array([width * height for width, height in sizes])
    limit = int(np.quantile(areas, 0.3))
    assert (areas > 2 * limit).any()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with data.loader(back_end, batch_size=40) as loader:
        next(iter(loader))
    assert set(areas[list(loader.bad)] > 2 * limit) == {False, True}
    for index, reason in loader.bad.items():
        assert areas[index] > limit
        assert "limit of" in reason or f"{areas[index]} pixels, over --max_pixels" in reason


def test_training_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    flags = f"--data_path {tree(tmp_path)} --batch_size 3 --num_workers 0"
    config = parse_training("fastimae-train", f"{flags} --max_pixels {LIMIT}".split())
    with build_loader(config, World(rank=0, size=1, device="cpu")) as loader:
        next(iter(loader))
        assert sorted(loader.bad.values()) == [f"18000 {REASON}", f"5600 {REASON}"]
    for wrong in (f"{flags} --max_pixels 0", "--synthetic --max_pixels 9"):
        with pytest.raises(ConfigError, match="--max_pixels"):
            parse_training("fastimae-train", wrong.split())
    with pytest.raises(DataError, match="--max_pixels must be positive, not 0"):
        ConvertOptions(src="x", max_pixels=0).check()


def test_evaluation_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    root = tree(tmp_path)
    options = EvalOptions(checkpoint=root, data_path=root)
    every = options.train_images()
    options.max_pixels = LIMIT
    images = options.train_images()
    assert images.fingerprint != every.fingerprint, "features of others would be used again"
    batches = CenterBatches(images, (8, 8), batch_size=3, workers=0)
    ((pixels, _),) = list(batches)
    assert len(pixels) == 1 and sorted(batches.bad.values()) == sorted(
        [f"18000 {REASON}", f"5600 {REASON}"]
    )
    options.max_pixels = 0
    with pytest.raises(DataError, match="--max_pixels must be positive, not 0"):
        options.train_images()


def test_no_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_image(file_bytes(FAR)).size == FAR
    with limited_to(LIMIT), pytest.raises(SkipImage, match=REASON):
        open_image(file_bytes(FAR))
    assert Image.MAX_IMAGE_PIXELS is None
    set_max_pixels(None)
    assert Image.MAX_IMAGE_PIXELS is None


def test_pillow_does_not_warn_of_what_is_refused():
    """And it works even if warnings are errors."""
    lines = (
        "import io, warnings",
        "from PIL import Image",
        "warnings.simplefilter('error', Image.DecompressionBombWarning)",
        "from fastimae.loaders.images.limits import TooManyPixels, open_image",
        "file = io.BytesIO()",
        "Image.new('L', (70, 80)).save(file, 'PNG')",
        "Image.MAX_IMAGE_PIXELS = 5000",
        "try: open_image(file.getvalue())",
        "except TooManyPixels as error: print(error)",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"5600 {REASON}\n", "")
