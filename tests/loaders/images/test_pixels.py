"""A file has the same pixels in every reader, or is refused for the same reason."""

import io
import pickle

import deep_images
import numpy as np
import pytest
from back_ends import INSTALLED
from deep_images import GRAY16, SHAPE, file_bytes
from PIL import Image
from source_files import make_tar

from fastimae.arguments import parse_training
from fastimae.build import build_loader
from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import open_images
from fastimae.loaders import create_loader, native_library
from fastimae.loaders.convert.journal import Journal, Progress
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.loaders.errors import DataError
from fastimae.loaders.image_location import SkipImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.images.decode import crop_and_resize
from fastimae.loaders.images.limits import limited_to, limits_for_workers, open_image, value_range
from fastimae.loaders.images.pixels import eight_bits
from fastimae.settings import ConfigError

LISTED = ["folder", "workers", "evaluation"]
LISTED += ["dali", "dali-tar"] if "nvidia-dali" in INSTALLED else []
BETON = ["pillow", *(["native"] if native_library.load() else [])]
LOW, HIGH = 1000.0, 41000.0


def written(root, files):
    """Write each file into a separate class, without an extension, in a folder and in a tar.

    Its number is its label.
    """
    names = {f"images/{number:02d}/x.png": data for number, data in enumerate(files)}
    for name, data in names.items():
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(data)
    make_tar(root / "images.tar", names)
    return root


def seen(reader, root, count, channels=3):
    """Map file numbers to uncropped pixels, and refused ones to reasons."""
    if reader == "evaluation":
        batches = CenterBatches(
            open_images(root / "images"), SHAPE, batch_size=count, workers=0, channels=channels
        )
        ((images, labels),) = batches
        return dict(zip(labels.tolist(), images.numpy(), strict=True)), batches.bad
    source = {
        "native": {"ffcv": root / "images.beton", "decoder": "native"},
        "pillow": {"ffcv": root / "images.beton", "decoder": "pillow"},
        "folder": {"data_path": root / "images", "num_workers": 0},
        "workers": {"data_path": root / "images"},
        "dali": {"dali": root / "images"},
        "dali-tar": {"dali": root / "images.tar"},
    }[reader]
    whole = {"crop": "none", "hflip": False, "input_size": SHAPE, "in_chans": channels}
    settings = {"num_workers": 1, "batch_size": count, "mix_group": 0, **whole, **source}
    with create_loader(**settings) as loader:
        (batch,) = loader
        return dict(zip(batch.labels.tolist(), batch.images.numpy(), strict=True)), loader.bad


def made_beton(root, bounds=None):
    """Make images.beton; return the reasons for skipped files, by number."""
    options = {"mode": "raw", "workers": 1, "value_range": bounds}
    report = convert(ConvertOptions(src=str(root / "images"), out=root / "images.beton", **options))
    return {int(name.split("/")[-2]): reason for name, reason in report.skipped}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    root = written(tmp_path_factory.mktemp("shown"), [d for d, _ in deep_images.SHOWN.values()])
    assert made_beton(root) == {}
    return root


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("reader", [*LISTED, *BETON])
def test_every_reader_shows_the_same_pixels(shown, reader, channels):
    pixels, bad = seen(reader, shown, len(deep_images.SHOWN), channels)
    assert bad == {}
    for number, (name, (_, expected)) in enumerate(deep_images.SHOWN.items()):
        image = Image.fromarray(expected if expected.ndim == 2 else expected.astype(np.uint8))
        image = image.convert("RGB").convert("RGB" if channels == 3 else "L")
        assert np.array_equal(pixels[number], np.asarray(image).reshape(*SHAPE, channels)), name


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    files = [data for data, _ in deep_images.REFUSED.values()]
    return written(tmp_path_factory.mktemp("refused"), [*files, file_bytes(GRAY16, "PNG")])


def check_reasons(found, table):
    for number, (name, (_, reason)) in enumerate(table.items()):
        assert found[number] == reason, name
    assert len(found) == len(table)


@pytest.mark.parametrize("reader", [*LISTED, "convert"])
def test_every_reader_refuses_the_same_files(refused, reader):
    """For the same reasons, and no others: the last file is a good one."""
    count = len(deep_images.REFUSED) + 1
    if reader == "convert":
        check_reasons(made_beton(refused), deep_images.REFUSED)
    else:
        check_reasons(seen(reader, refused, count)[1], deep_images.REFUSED)


def mapped(values):
    """Map LOW..HIGH to 0..255, one number at a time."""
    flat = [min(max(float(value), LOW), HIGH) for value in values.ravel()]
    levels = [round(255 * (value - LOW) / (HIGH - LOW)) for value in flat]
    return np.repeat(np.array(levels, np.uint8).reshape(SHAPE)[..., None], 3, axis=-1)


WIDE = np.where(GRAY16 < 50000, GRAY16, np.inf).astype(np.float32)
DEEP = {
    **dict.fromkeys(deep_images.GRAY16_FILES, GRAY16),
    "float": GRAY16.astype(np.float32),
    "infinite": WIDE,
    "negative": -WIDE,
    "int32": GRAY16.astype(np.int32) * 3 - 70000,
}
DEEP_FILES = {
    **deep_images.GRAY16_FILES,
    **{name: file_bytes(DEEP[name], "TIFF") for name in list(DEEP)[-4:]},
}
RANGE_REFUSES = {
    **{
        name: (data, "--value_range 1000 41000 cannot map 16-bit colours, as Pillow reads 8 bits")
        for name, (data, _) in deep_images.COLOURS16_FILES.items()
    },
    "NaN": (
        file_bytes(np.where(np.eye(*SHAPE), np.nan, GRAY16).astype(np.float32), "TIFF"),
        "some of its pixels are NaN",
    ),
}


@pytest.mark.parametrize("reader", [*LISTED, *BETON])
def test_a_range_maps_what_is_deeper_than_8_bits(tmp_path, reader):
    """And leaves 8-bit images unchanged. A NaN cannot be mapped."""
    eight = {name: deep_images.SHOWN[name] for name in ("RGBA-PNG", "P-TIFF", "LA-PNG")}
    files = [*(data for data, _ in RANGE_REFUSES.values()), *DEEP_FILES.values()]
    root = written(tmp_path, [*files, *(data for data, _ in eight.values())])
    if reader in BETON:
        bad = made_beton(root, (LOW, HIGH))
        pixels, _ = seen(reader, root, len(DEEP_FILES) + len(eight))
    else:
        with limited_to(None, (LOW, HIGH)):
            pixels, bad = seen(reader, root, len(files) + len(eight))
    check_reasons(bad, RANGE_REFUSES)
    expected = [*(mapped(DEEP[name]) for name in DEEP_FILES), *(p for _, p in eight.values())]
    assert sorted(pixels)[-len(expected) :] == list(range(len(bad), len(bad) + len(expected)))
    for number, image in enumerate(expected, len(bad)):
        assert np.array_equal(pixels[number], image), [*DEEP_FILES, *eight][number - len(bad)]
    assert value_range() is None


@pytest.mark.parametrize("window", [(0, 0, 3, 4), (5, 2, 6, 9)])
def test_a_crop_is_refused_if_the_image_is(window):
    """Otherwise an image with a NaN would be bad in some epochs only."""
    pixels = GRAY16.astype(np.float32)
    pixels[-1, -1] = np.nan
    image = Image.open(io.BytesIO(file_bytes(pixels, "TIFF")))
    with limited_to(None, (LOW, HIGH)), pytest.raises(SkipImage, match="NaN"):
        crop_and_resize(image, window, False, Crops(size=(4, 4)))


def test_workers_that_are_not_forked_know_the_range():
    with limited_to(None, (LOW, HIGH)):
        begin = pickle.dumps(limits_for_workers())
    with limited_to(None):
        assert value_range() is None
        pickle.loads(begin)(0)
        assert value_range() == (LOW, HIGH)


WRONG = ["5 5", "9 1", "nan 1", "0 inf", "-1e308 1e308"]


@pytest.mark.parametrize("bounds", WRONG, ids=str)
def test_an_empty_range_is_refused_by_name(bounds, tmp_path):
    pair = tuple(map(float, bounds.split()))
    with pytest.raises(DataError, match=r"^--value_range .*LOW must be below HIGH"):
        ConvertOptions(src="x", value_range=pair).check()
    with pytest.raises(ConfigError, match=r"^--value_range .*LOW must be below HIGH"):
        parse_training("fastimae-train", f"--data_path x --value_range {bounds}".split())


@pytest.mark.parametrize("source", ["--synthetic", "--ffcv a.beton", "--dali a.beton"])
def test_a_range_without_effect_is_refused(source):
    with (
        limited_to(None),
        pytest.raises((ConfigError, DataError), match="--value_range has no effect"),
    ):
        config = parse_training("fastimae-train", f"{source} --value_range 0 9".split())
        build_loader(config, World(rank=0, size=1, device="cpu"))


def test_the_training_flag_acts_in_its_run_only(tmp_path):
    """A second run in the same process, without the flag, has no range."""
    root = written(tmp_path, [file_bytes(GRAY16.astype(np.float32), "TIFF")] * 2)
    flags = f"--data_path {root / 'images'} --batch_size 2 --num_workers 0 --crop none --no_hflip"
    flags += f" --input_size {SHAPE[0]} {SHAPE[1]}"
    for more, shown in ((f" --value_range {LOW} {HIGH}", mapped(GRAY16)), ("", None)):
        config = parse_training("fastimae-train", (flags + more).split())
        with build_loader(config, World(rank=0, size=1, device="cpu")) as loader:
            if shown is None:
                with pytest.raises(DataError, match="no known range"):
                    next(iter(loader))
            else:
                assert np.array_equal(next(iter(loader)).images[0], shown)


def test_a_resumed_conversion_remembers_the_depths(tmp_path):
    first = Journal(tmp_path / "j", "task")
    first.add(Progress(done=3, depths={"x": 2, "y": 1}))
    first.add(Progress(done=1, depths={"x": 1}))
    first.close()
    assert Journal(tmp_path / "j", "task").progress.depths == {"x": 3, "y": 1}


@pytest.mark.parametrize(
    ("kind", "number_format", "photometric"),
    [("i1", 2, 1), ("<i2", 2, 1), ("<i4", 2, 1), ("<u4", 1, 1), ("<u2", 1, 0), ("<f4", 3, 0)],
    ids=["int8", "int16", "int32", "uint32", "white-is-zero", "float-white-is-zero"],
)
def test_a_range_maps_the_numbers_that_a_tiff_holds(kind, number_format, photometric):
    """Here the full range of its bits."""
    kind = np.dtype(kind)
    spread = np.linspace(0, 1, GRAY16.size).reshape(SHAPE)
    bounds = np.finfo("f2") if kind.kind == "f" else np.iinfo(kind)
    low, high = float(bounds.min), float(bounds.max)
    values = (low + spread * (high - low)).astype(kind)
    file = deep_images.tiff(values.tobytes(), (8 * kind.itemsize,), photometric, number_format)
    with limited_to(None, (low, high)):
        shown = np.asarray(eight_bits(open_image(file), "L"))
    expected = 255 * (values.astype(float) - low) / (high - low)
    assert np.abs(shown - (expected if photometric else 255 - expected)).max() <= 0.5 + 1e-9
