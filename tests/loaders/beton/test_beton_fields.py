"""The choice of the fields of a .beton: one rule, or an error that says what to do."""

import pickle

import numpy as np
import pytest
import torch
from back_ends import INSTALLED
from beton_by_hand import many_fields

from fastimae import build
from fastimae.arguments import parse, parse_training
from fastimae.bench.options import BenchOptions, settings
from fastimae.engine.distributed import World
from fastimae.evaluate.images import open_images
from fastimae.evaluate.tasks.weights import WeightsOptions
from fastimae.loaders import DataError, create_loader, native_library
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.convert.verify import verify_beton
from fastimae.settings import ConfigError

IMAGE = ("image", "image")
NUMBERS = {
    "id": [70, 71, 72],
    "label": [2, 0, 1],
    "Target": [5, 6, 7],
    "fine": [9, 8, 7],
    "age": [0.5, 1.5, 2.5],
    "weight": [4.0, 3.0, 2.0],
    "score": [1e300, 0.0, 1.0],
}
READERS = [
    *(["native"] if native_library.load() else []),
    *(["dali"] if "nvidia-dali" in INSTALLED else []),
    *("pillow", "evaluation"),
]
INTEGERS = ("id", "label", "Target", "fine")


def write(tmp_path, *names):
    """Write a file with these fields: names of number fields, or (name, kind)."""
    kind_of = {name: "int" if name in INTEGERS else "float" for name in NUMBERS}
    fields = [name if isinstance(name, tuple) else (name, kind_of[name]) for name in names]
    columns = {name: NUMBERS[name] for name, kind in fields if kind in ("int", "float")}
    path = tmp_path / "fields.beton"
    path.write_bytes(many_fields(fields, columns))
    return path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((IMAGE, "label"), "label"),
        (("id", IMAGE, "label"), "label"),
        (("id", "fine", IMAGE, "Target"), "Target"),
        ((IMAGE, "fine"), "fine"),
        ((IMAGE, "weight"), "weight"),
        (("age", "weight", IMAGE), "weight"),
        (("weight", "fine", IMAGE), "fine"),
        ((IMAGE, "age"), None),
        ((IMAGE, "score"), None),
        ((IMAGE, ("label", "json"), "id"), None),
        ((IMAGE,), None),
    ],
    ids=[
        "called-label",
        "beside-an-integer",
        "capital",
        "only-integer",
        "only-float",
        "whole-float",
        "integer-before-float",
        "not-whole",
        "too-large",
        "label-is-no-number",
        "none",
    ],
)
def test_the_label_is_the_only_field_that_can_be_one(tmp_path, names, expected):
    with BetonReader(write(tmp_path, *names)) as reader:
        assert reader.labels.tolist() == NUMBERS.get(expected, [-1, -1, -1])
        assert reader.image_field == "image"
        plain = names in ((IMAGE,), (IMAGE, "label"))
        assert (reader.kind == ".beton file") == plain
        if not plain:
            assert ("labels from " + expected if expected else "no labels") in reader.kind


@pytest.mark.parametrize(
    ("names", "candidates"),
    [(("id", "fine", IMAGE), "id, fine"), ((IMAGE, "label", "Target", "id"), "label, Target")],
    ids=["two-integers", "two-names"],
)
def test_two_candidates_for_the_label_are_an_error(tmp_path, names, candidates):
    path = write(tmp_path, *names)
    with pytest.raises(
        DataError, match=f"{candidates}; choose one with --label_field NAME, or none"
    ):
        BetonReader(path)
    wanted = candidates.split(", ")[1]
    with BetonReader(path, label_field=wanted) as reader:
        assert reader.labels.tolist() == NUMBERS[wanted]
        assert pickle.loads(pickle.dumps(reader)).labels.tolist() == NUMBERS[wanted]
    with BetonReader(path, label_field="none") as reader:
        assert reader.labels.tolist() == [-1] * 3
    assert verify_beton(path, 1).bad == []


@pytest.mark.parametrize("wanted", ["age", "image", "absent"])
def test_a_label_that_is_asked_for_must_be_whole_numbers(tmp_path, wanted):
    path = write(tmp_path, IMAGE, "label", "age", "weight")
    with pytest.raises(DataError, match=f"--label_field {wanted}: .*label, weight"):
        BetonReader(path, label_field=wanted)


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (("label", ("second", "image"), IMAGE), None, "image"),
        (("label", ("second", "image")), None, "second"),
        (("label", ("left", "image"), ("right", "image")), "right", "right"),
        (("label", ("left", "image"), IMAGE), "left", "left"),
    ],
    ids=["by-name", "only-one", "right", "left"],
)
@pytest.mark.parametrize("back_end", READERS)
def test_all_readers_use_the_same_image_field(tmp_path, names, wanted, expected, back_end):
    path = write(tmp_path, *names)
    shade = 40 * [n if isinstance(n, str) else n[0] for n in names].index(expected)
    shown = shades(path, back_end, wanted)
    assert shown == [shade, shade + 1, shade + 2]


def shades(path, back_end, image_field):
    """Return the shade of each sample."""
    if back_end == "evaluation":
        images = open_images(path, image_field=image_field)
        return [int(np.asarray(images[index][0])[0, 0, 0]) for index in range(3)]
    source = {"dali": path} if back_end == "dali" else {"ffcv": path, "decoder": back_end}
    settings = {"batch_size": 3, "mix_group": 0, "input_size": (2, 2), "num_workers": 0}
    with create_loader(**source, **settings, image_field=image_field) as loader:
        batch = next(iter(loader))
    return batch.images[batch.index.argsort(), 0, 0, 0].tolist()


def test_two_candidates_for_the_image_are_an_error(tmp_path):
    path = write(tmp_path, "label", ("left", "image"), ("right", "image"))
    with pytest.raises(DataError, match="left, right; choose one with --image_field NAME"):
        BetonReader(path)
    with pytest.raises(DataError, match=r"--image_field middle: .*left, right"):
        BetonReader(path, image_field="middle")


def test_the_flags_reach_the_file(tmp_path):
    """Flags of fastimae-train and fastimae-eval; fastimae-bench needs no labels."""
    path = write(tmp_path, "id", "fine", ("left", "image"), ("right", "image"))
    chosen = f"--ffcv {path} --label_field id --image_field right"
    config = parse_training("fastimae-train", [*chosen.split(), "--batch_size", "3"])
    with build.build_loader(config, World(0, 1, torch.device("cpu"))) as loader:
        assert loader.sampler.labels.tolist() == NUMBERS["id"]
        assert loader.reader.image_field == "right"
    argv = [*chosen.split(), "--checkpoint", "x"]
    options = parse("fastimae-eval weights", WeightsOptions, argv)
    assert options.train_images().labels.tolist() == NUMBERS["id"]
    options = BenchOptions(data=write(tmp_path, "id", "fine", IMAGE), batch_size=3)
    bench = settings(options, torch.device("cpu"))
    with build.build_loader(bench, World(0, 1, torch.device("cpu"))) as loader:
        assert loader.sampler.labels.tolist() == [-1] * 3


@pytest.mark.parametrize("flag", ["label_field", "image_field"])
def test_only_a_beton_has_fields(image_folder, flag):
    with pytest.raises(DataError, match=f"--{flag} x is for a .beton file"):
        create_loader(data_path=image_folder, batch_size=4, **{flag: "x"})
    options = WeightsOptions(checkpoint=image_folder / "x", data_path=image_folder, **{flag: "x"})
    with pytest.raises(ConfigError, match=r"for \.beton files: --ffcv"):
        options.train_images()
