"""fastimae-eval features: what its files hold, over shards and ranks, and that none is half."""

import dataclasses
import json
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from toy_images import save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.engine.distributed import World
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.feature_files.extraction import View, steps
from fastimae.evaluate.feature_files.row_file import Column, RowFile
from fastimae.evaluate.images import open_images
from fastimae.evaluate.options.features import FeaturesOptions
from fastimae.settings import ConfigError

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
BROKEN = (1, 13, 14)
DOCS = Path(__file__).parents[2] / "docs"


@dataclasses.dataclass
class Place:
    """A folder with a checkpoint, and data of which three images are broken."""

    root: Path
    net: torch.nn.Module

    def run(self, out="out.safetensors", *flags, data="--data_path"):
        command = ["features", self.root / out, "--checkpoint", self.root / "mae.pth", *flags]
        command += [data, self.root / "data", "--device", "cpu", "--num_workers", 0]
        return evaluate([*map(str, command), "--precision", "fp32", "--batch_size", "5"])

    def results(self):
        return json.loads((self.root / "eval-features" / "results.json").read_text())

    def tokens(self, layers):
        """Compute the tokens of all images that can be read."""
        images = open_images(self.root / "data" / "train")
        ((pixels, _),) = CenterBatches(images, (32, 32), batch_size=99, workers=0)
        with torch.no_grad():
            return self.net.eval().forward_features(pixels, layers=layers)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    net = save_mae(root / "mae.pth", depth=3)
    save_splits(root / "data", 8)
    files = sorted((root / "data" / "train").rglob("*.png"))
    for number in BROKEN:
        files[number].write_bytes(b"broken")
    return root, net


@pytest.fixture
def place(made, tmp_path):
    root, net = made
    shutil.copy(root / "mae.pth", tmp_path)
    (tmp_path / "data").symlink_to(root / "data")
    return Place(tmp_path, net)


def about(path):
    with safe_open(path, "np") as file:
        return file.metadata()


@pytest.mark.parametrize("pool", ["cls", "avg", "tokens"])
def test_features_are_those_of_the_model(place, pool):
    """Of several layers, although images in the middle have no rows."""
    assert place.run("out.safetensors", "--layers", "0", "-1", "--pool", pool) == 0
    content = load_file(place.root / "out.safetensors")
    readable = np.delete(np.arange(24), BROKEN)
    assert_array_equal(content["index"], readable)
    assert_array_equal(content["labels"], readable // 8)
    take = {"cls": lambda x: x[:, 0], "avg": lambda x: x[:, 1:].mean(1), "tokens": lambda x: x}
    for name, expected in zip(("layer_0", "layer_2"), place.tokens([0, 2]), strict=True):
        np.testing.assert_allclose(content[name], take[pool](expected), rtol=1e-4, atol=2e-5)
    names = json.loads(content["names"].tobytes())
    assert len(names) == 21 and names[:2] == ["train/a_red/000.png", "train/a_red/002.png"]
    told = about(place.root / "out.safetensors")
    assert json.loads(told["classes"]) == ["a_red", "b_green", "c_blue"]
    assert (told["layers"], told["pool"], told["skipped"]) == ("[0, 2]", pool, "3")
    results = place.results()
    assert told["weights"] == results["weights"] and len(told["weights"]) == 16
    numbers = results["numbers"]
    assert (numbers["images"], numbers["bad_images"], numbers["classes"]) == (21, 3, 3)
    assert numbers["bytes"] == (place.root / "out.safetensors").stat().st_size


def test_shards_are_parts_of_one_file(place):
    assert place.run() == 0
    whole = load_file(place.root / "out.safetensors")
    assert place.run("out.safetensors", "--max_shard_size", "5e-6") == 0  # 9 images
    shards = sorted(place.root.glob("*.safetensors"))
    assert [path.name for path in shards] == [
        f"out-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    assert all(path.stat().st_size < 5000 + 8192 for path in shards)
    parts = [load_file(path) for path in shards]
    for name in ("features", "labels", "index"):
        assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    names = [name for part in parts for name in json.loads(part["names"].tobytes())]
    assert names == json.loads(whole["names"].tobytes())
    assert [about(path)["skipped"] for path in shards] == ["1", "2", "0"]
    assert place.results()["numbers"]["files"] == list(map(str, shards))
    assert place.run() == 0  # replaces them all
    assert [path.name for path in place.root.glob("*.safetensors")] == ["out.safetensors"]


def test_half_precision_halves_the_file(place):
    assert place.run("half.safetensors", "--dtype", "float16", "--pool", "tokens") == 0
    content = load_file(place.root / "half.safetensors")["features"]
    assert content.dtype == np.float16 and content.shape == (21, 17, 128)
    np.testing.assert_allclose(content, place.tokens([2])[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("how", ["ctrl_c", "terminated", "full"])
def test_what_is_not_complete_is_not_there(place, how, monkeypatch, capsys):
    """The file of an earlier call stays."""
    assert place.run() == 0
    before = (place.root / "out.safetensors").read_bytes()
    real, calls = View.features, []

    def stop(self, images):
        calls.append(1)
        if len(calls) == 3:
            if how == "full":
                raise OSError(28, "No space left on device")
            if how == "ctrl_c":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGTERM)
        return real(self, images)

    monkeypatch.setattr(View, "features", stop)
    assert place.run("out.safetensors", "--layers", "1", "--max_shard_size", "5e-6") != 0
    if how == "full":
        assert "No space left on device): choose another OUT" in capsys.readouterr().err
    assert len(calls) == 3
    found = [path for path in place.root.glob("*") if path.is_file()]
    assert {path.name for path in found} == {"out.safetensors", "mae.pth"}
    assert (place.root / "out.safetensors").read_bytes() == before


def error_of(place, capsys, *arguments):
    assert place.run(*arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_nothing_but_features_is_replaced(place, capsys):
    weights = place.root / "weights.safetensors"
    save_file({"x": np.ones(3)}, weights)
    said = error_of(place, capsys, "weights.safetensors")
    assert "holds no features: choose another OUT" in said
    assert load_file(weights)["x"].sum() == 3
    other = place.root / "out-00002-of-00003.safetensors"  # as the parts of large models are named
    weights.rename(other)
    said = error_of(place, capsys, "out.safetensors", "--max_shard_size", "5e-6")
    assert f"{other} exists and holds no features" in said and load_file(other)["x"].sum() == 3
    assert not list(place.root.glob("out-00001*"))


def test_a_disk_that_is_too_small_is_found_first(place, monkeypatch, capsys):
    monkeypatch.setattr(View, "features", None)
    usage = shutil.disk_usage(place.root)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    said = error_of(place, capsys, "out.safetensors", "--pool", "tokens")
    assert "does not fit: 209.3 kB of features for 24 images, 10.0 kB free" in said
    assert "--dtype float16" in said and not list(place.root.glob("out*"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--layers", "3"], "--layers 3: the encoder has 3 blocks, 0 to 2 or -3 to -1"),
        (["--layers", "0", "-3"], "--layers names block 0 twice"),
        (["--max_shard_size", "1e-9"], "an image alone has 528.0 B"),
        (["--pool", "mean"], "avg"),
        (["--val", "x"], "give one of them"),
    ],
)
def test_what_cannot_be_is_one_line(place, flags, said, capsys):
    assert said in error_of(place, capsys, "out.safetensors", *flags)
    assert not list(place.root.glob("out*"))


def test_out_is_a_safetensors_file():
    with pytest.raises(ConfigError, match=r"OUT must end in \.safetensors: x\.pth"):
        FeaturesOptions(checkpoint=Path("mae.pth"), out=Path("x.pth")).check()


def test_numbers_that_float16_cannot_hold(place, capsys):
    content = torch.load(place.root / "mae.pth", weights_only=True)
    content["model"]["norm.weight"] *= 1e6
    torch.save(content, place.root / "mae.pth")
    said = error_of(place, capsys, "out.safetensors", "--dtype", "float16")
    assert "the features of image 0 are infinite or NaN: try --precision fp32 or --dtype" in said
    assert place.run("out.safetensors") == 0


def test_no_readable_image_is_one_clear_error(place, capsys):
    (place.root / "bad").mkdir()
    (place.root / "bad" / "x.png").write_bytes(b"no image")
    command = ["features", place.root / "o.safetensors", "--checkpoint", place.root / "mae.pth"]
    command += ["--val", place.root / "bad", "--device", "cpu"]
    assert evaluate(list(map(str, command))) == 2
    assert "none of its 1 images can be read" in capsys.readouterr().err
    assert not list(place.root.glob("o*"))


@dataclasses.dataclass(frozen=True)
class ThreadWorld(World):
    """Ranks that are threads of one process."""

    barrier: threading.Barrier = None
    sent: list = None

    def all(self, values):
        self.sent[self.rank] = values.clone()
        self.barrier.wait(20)
        everyone = list(self.sent)
        self.barrier.wait(20)
        return everyone


def test_ranks_give_what_one_process_gives(place):
    """Also where a rank has fewer images, or none that can be read."""
    images = open_images(place.root / "data" / "train")
    view = View(model=place.net, layers=[0, 2], pool="avg", dtype="float32", precision="fp32")
    (alone,) = steps(view, images, ALONE, batch_size=24, workers=0)
    barrier, sent, found = threading.Barrier(3), [None] * 3, {}

    def one(rank):
        world = ThreadWorld(rank, 3, CPU, barrier=barrier, sent=sent)
        found[rank] = list(steps(view, images, world, batch_size=2, workers=0))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_array_equal(np.concatenate([step.index for step in found[0]]), alone.index)
    for name in ("layer_0", "layer_2"):
        rows = np.concatenate([step.features[name] for step in found[0]])
        np.testing.assert_allclose(rows, alone.features[name], rtol=1e-4, atol=1e-5)
    assert not any(len(step.index) or step.features for step in found[1] + found[2])
    assert [step.images for step in found[1]] == [6, 12, 18, 24]


@pytest.mark.parametrize("rows", [0, 1, 30, 40])
def test_any_number_of_rows_makes_a_valid_file(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("fastimae.evaluate.feature_files.row_file._CHUNK", 64)
    rng = np.random.default_rng(rows)
    columns = {"a": Column("int64"), "b": Column("float32", (3, 2)), "c": Column("float16", (5,))}
    values = {
        name: (100 * rng.normal(size=(rows, *column.shape))).astype(column.dtype)
        for name, column in columns.items()
    }
    file, at = RowFile(tmp_path / "x", columns, 40, {"k": "é"}), 0
    while at < rows:
        count = int(rng.integers(1, 9))
        file.write({name: each[at : at + count] for name, each in values.items()})
        at += count
    file.finish({"more": np.arange(3, dtype=np.uint8)}, {"n": str(rows)})
    found = load_file(tmp_path / "x")
    assert found.pop("more").tolist() == [0, 1, 2] and found.keys() == columns.keys()
    for name, expected in values.items():
        assert_array_equal(found[name], expected)
    assert about(tmp_path / "x") == {"k": "é", "n": str(rows)}


def test_the_example_of_the_documentation(place, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(place.root)
    for split in ("train", "val"):
        flags = [f"{split}.safetensors", "--checkpoint", "mae.pth", "--val", f"data/{split}"]
        assert evaluate(["features", *flags, "--device", "cpu", "--num_workers", "0"]) == 0
    (code,) = [
        block
        for block in (DOCS / "evaluating.md").read_text().split("```python\n")[1:]
        if "LogisticRegression" in block.split("```")[0]
    ]
    exec(code.split("```")[0], {})
    assert float(capsys.readouterr().out) > 0.9
