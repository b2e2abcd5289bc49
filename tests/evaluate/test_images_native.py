"""Fine-tuning and evaluation with a .beton: bit for bit the same as with Pillow alone."""

import numpy as np
import odd_jpegs
import pytest
import torch
from toy_images import save_mae

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import open_images
from fastimae.loaders import BetonWriter, native_library
from fastimae.loaders.beton.trailer import make_trailer
from fastimae.loaders.order.seeded import seeded

pytest.importorskip("timm")
from fastimae.evaluate.finetuning.augmented_loader import AugmentedLoader
from fastimae.evaluate.finetuning.transforms import training_transform
from fastimae.evaluate.options.finetune import FinetuneOptions

pytestmark = pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
SIZES = [(70, 50), (40, 90), (64, 64), (33, 130), (32, 32), (12, 9)]
BROKEN = 7


@pytest.fixture
def beton(tmp_path):
    """Photographs of many sizes: gray, progressive, CMYK, and a broken one."""
    path = tmp_path / "images.beton"
    options = [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}]
    with BetonWriter(path) as writer:
        for number in range(24):
            width, height = SIZES[number % len(SIZES)]
            image = odd_jpegs.picture(number, (width, height))
            image = image.convert({5: "L", 6: "CMYK"}.get(number, "RGB"))
            data = odd_jpegs.jpeg(image, **options[number % 4])
            trailer = make_trailer(b"other" if number == BROKEN else data)
            writer.append(data, height=height, width=width, label=number % 3, trailer=trailer)
    return path


@pytest.fixture
def with_pillow(monkeypatch):
    """Call a function without the native library."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(native_library, "load", lambda: None)
            return function()

    return call


def transform(channels=3, **options):
    options = FinetuneOptions(checkpoint="x", **options)
    size, half = (32, 48), (0.5,) * channels
    return training_transform(options, size, half, half)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("channels", [3, 1])
def test_evaluation_shows_the_same(beton, with_pillow, channels, whole):
    def views():
        images = open_images(beton)
        images.whole = whole
        batches = CenterBatches(images, (32, 48), batch_size=5, workers=2, channels=channels)
        return torch.cat([pixels for pixels, _ in batches]), batches.bad

    (pixels, bad), (expected, same) = views(), with_pillow(views)
    assert torch.equal(pixels, expected)
    assert bad == same and set(bad) == {BROKEN}


@pytest.mark.parametrize("options", [{}, {"crop": "none"}, {"aa": "none", "min_crop": 0.01}])
def test_a_window_is_drawn_and_shown_as_of_the_whole_image(beton, with_pillow, options):
    images, change = open_images(beton), transform(**options)

    def views():
        for index in set(range(len(images))) - {BROKEN}:
            for seed in range(4):
                with seeded(seed, index):
                    yield change(images.view(index))

    def of_whole_images():
        for index in set(range(len(images))) - {BROKEN}:
            image, _ = images[index]
            for seed in range(4):
                with seeded(seed, index):
                    yield change(image)

    expected = torch.stack(with_pillow(lambda: list(of_whole_images())))
    assert torch.equal(torch.stack(list(views())), expected)


@pytest.mark.parametrize(("channels", "workers"), [(3, 0), (1, 2)])
def test_training_batches_are_the_same(beton, with_pillow, channels, workers):
    def batches():
        loader = AugmentedLoader(
            open_images(beton), transform(channels, color_jitter=0.4, aa="none"), None,
            shape=(channels, 32, 48), batch_size=8, num_workers=workers, pin_mem=False,
            world=World(0, 1, torch.device("cpu")), seed=4,
        )  # fmt: skip
        return list(loader), loader.bad

    (found, bad), (expected, same) = batches(), with_pillow(batches)
    assert len(found) == 3 and bad == same == {BROKEN}
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.inputs, b.inputs) and torch.equal(a.index, b.index)
        assert torch.equal(a.targets, b.targets)


def test_errors_of_the_transform_are_no_bad_images(beton):
    def fail(image):
        raise ValueError("not the image's fault")

    loader = AugmentedLoader(
        open_images(beton), fail, None, shape=(3, 32, 48), batch_size=8, num_workers=0,
        pin_mem=False, world=World(0, 1, torch.device("cpu")), seed=4,
    )  # fmt: skip
    with pytest.raises(ValueError, match="fault"):
        next(iter(loader))


def test_fine_tuning_trains_to_the_same_bits(beton, with_pillow, tmp_path):
    save_mae(tmp_path / "mae.pth", depth=1)
    files = ["--checkpoint", tmp_path / "mae.pth", "--ffcv", beton, "--val", beton]
    flags = ["--epochs", 1, "--batch_size", 8, "--num_workers", 0, "--device", "cpu"]

    def model(name):
        command = ["finetune", *files, *flags, "--output_dir", tmp_path / name]
        assert evaluate(list(map(str, command))) == 0
        saved = load_checkpoint(tmp_path / name / "checkpoint-last.pth")
        return {key: value.numpy() for key, value in saved["model"].items()}

    native, pillow = model("native"), with_pillow(lambda: model("pillow"))
    assert native.keys() == pillow.keys()
    assert all(np.array_equal(native[key], pillow[key]) for key in native)
