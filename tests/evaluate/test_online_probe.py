"""Probes while training: what they measure, when, and that training does not notice."""

import contextlib
import functools
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_model
from toy_images import save_gray, save_splits

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.probe_settings import ProbeSettings
from fastimae.evaluate.images import open_images
from fastimae.evaluate.online import crops
from fastimae.evaluate.online.crops import CenterCrops
from fastimae.evaluate.online.probe import OnlineProbe
from fastimae.evaluate.online.training import open_probe_images, probe_after_epochs
from fastimae.evaluate.pages.curves import curves
from fastimae.loaders.errors import DataError
from fastimae.loaders.settings import DataSettings
from fastimae.models import create_model
from fastimae.pictures import reconstruction

RUN = (
    "--num_workers 0 --device cpu --precision fp32 --model mae_vit_nano_patch16 --input_size 32 "
    "--batch_size 8 --lr 1e-2 --warmup_epochs 0 --vis_freq 0 --epochs 3 --objective mae "
    "--model_ema 0.9"
)
EVAL = "--num_workers 0 --device cpu --precision fp32 --batch_size 8"


def save_faint(root, per_class, seed):
    """Save classes that are hard to tell apart: noise, a little brighter in one channel."""
    rng = np.random.default_rng(seed)
    for channel in range(3):
        (root / f"class_{channel}").mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 240, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 12
            Image.fromarray(pixels).save(root / f"class_{channel}" / f"{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("faint")
    save_faint(root / "train", 16, 0), save_faint(root / "val", 12, 1)
    return root


@pytest.fixture(scope="module")
def runs(data):
    """Return the folders of a run with probes and of one without."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "draw_grid", save_gray)
        train(data, "plain"), train(data, "probed", "--probe_freq 2", "--val", data)
    return data / "probed", data / "plain"


def train(data, name, flags="", *more):
    command = [*RUN.split(), "--data_path", data, "--output_dir", data / name, *flags.split()]
    assert cli.train([str(word) for word in (*command, *more)]) == 0


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def random_states():
    """Return the states of all global generators."""
    legacy = np.random.get_state()[1]  # noqa: NPY002
    return random.getstate(), legacy.tolist(), torch.get_rng_state().tolist()


def images_of(data):
    return open_images(data / "train"), open_images(data / "val")


def test_training_is_the_same_with_and_without(runs):
    one, other = (load_checkpoint(run / "checkpoint-last.pth") for run in runs)
    for part in ("model", "model_ema", "optimizer"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0)
    assert one["metrics"] == other["metrics"]
    losses = [[line["train_loss"] for line in lines_of(run)] for run in runs]
    assert losses[0] == losses[1]


def test_log_has_them_after_every_n_epochs_and_the_last(runs):
    measures = (
        "linear_acc1",
        "knn_acc1",
        "rankme",
        "ema_linear_acc1",
        "ema_knn_acc1",
        "ema_rankme",
    )
    names = {"probe_seconds", *(f"probe_{name}" for name in measures)}
    probed, plain = map(lines_of, runs)
    assert [names <= line.keys() for line in probed] == [True, False, True]
    assert not any(name.startswith("probe") for line in plain for name in line)
    charts = " ".join(str(chart) for chart in curves(probed))
    assert all(
        title in charts for title in ("RankMe", "Accuracy", "linear acc1", "Time of a probe")
    )


def test_values_are_those_of_fastimae_eval(runs, data):
    """The same code on the checkpoint, which has been written, read, and cropped anew."""
    last = runs[0] / "checkpoint-last.pth"
    command = f"knn --checkpoint {last} --data_path {data} --k 20 {EVAL}"
    assert cli.evaluate(command.split()) == 0
    numbers = json.loads((runs[0] / "eval-knn" / "results.json").read_text())["numbers"]
    line = lines_of(runs[0])[-1]
    assert line["probe_knn_acc1"] == pytest.approx(numbers["acc1"], abs=1e-4)
    assert line["probe_rankme"] == pytest.approx(numbers["rankme"], abs=1e-3)
    assert 0 < line["probe_knn_acc1"] < 100 and 1 < line["probe_rankme"] < 36


def test_the_average_of_a_run_is_probed(runs, data):
    content = load_checkpoint(runs[0] / "checkpoint-last.pth")
    model = create_model("mae_vit_nano_patch16", img_size=32)
    line = lines_of(runs[0])[-1]
    for part, prefix in (("model_ema", "probe_ema_"), ("model", "probe_")):
        model.load_state_dict(content[part])
        values = OnlineProbe(*images_of(data), batch_size=8, precision="fp32")(model)
        assert {name: line[prefix + name] for name in values} == pytest.approx(values, abs=1e-3)
    assert line["probe_ema_rankme"] != line["probe_rankme"]


def test_nothing_is_drawn_and_no_mode_or_gradient_is_left(data):
    model = tiny_model().train()
    model.norm.eval()  # as a user may have it
    modes = [part.training for part in model.modules()]
    probe = OnlineProbe(*images_of(data), batch_size=8)
    states = random_states()
    first = probe(model)
    assert random_states() == states
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.cls_token.requires_grad
    assert probe(model) == first


def test_an_average_of_weights_is_probed_under_its_own_name(data):
    probe = OnlineProbe(*images_of(data), batch_size=8)
    torch.manual_seed(0)
    models = {"": tiny_model(), "ema_": tiny_model()}
    within = {name: functools.partial(contextlib.nullcontext, m) for name, m in models.items()}
    after = probe_after_epochs(probe, within, ProbeSettings(probe_freq=1, val=data), 5)
    values = after(3)
    for prefix, model in models.items():
        for name, value in probe(model).items():
            assert values[f"probe_{prefix}{name}"] == pytest.approx(value, abs=1e-4)
    assert values["probe_rankme"] != values["probe_ema_rankme"]


def test_only_the_test_images_are_described(data, caplog):
    """Those to learn from have been, by the loader of the training."""
    caplog.set_level("INFO")
    open_probe_images(DataSettings(data_path=data / "train"), data)
    assert [message.split(":")[0] for message in caplog.messages] == [str(data / "val")]


def test_a_probe_that_fails_is_a_warning(caplog):
    def no_memory(encoder):
        raise torch.OutOfMemoryError("2 GiB are missing")

    settings = ProbeSettings(probe_freq=2, val="val")
    after = probe_after_epochs(no_memory, {"": contextlib.nullcontext}, settings, 4)
    assert after(1) == {} and not caplog.records
    assert after(2).keys() == {"probe_seconds"}
    assert "probe after epoch 3 failed, and training goes on: 2 GiB are missing" in caplog.text


@pytest.mark.parametrize(
    ("freq", "epochs", "due"), [(0, 4, []), (1, 3, [0, 1, 2]), (2, 4, [0, 2, 3]), (9, 3, [0, 2])]
)
def test_when_probes_are_due(freq, epochs, due):
    settings = ProbeSettings(probe_freq=freq)
    assert [epoch for epoch in range(epochs) if settings.is_due(epoch, epochs)] == due


def test_crops_are_decoded_once_if_there_is_room(data, monkeypatch):
    images, decoded = open_images(data / "val"), []
    view = images.view
    monkeypatch.setattr(
        images, "view", lambda index, channels: decoded.append(index) or view(index)
    )
    kept = CenterCrops(images, count=7, seed=3, channels=3, batch_size=4, workers=0)
    first, second = (list(kept.batches((32, 32))) for _ in range(2))
    assert len(decoded) == 7 and len(set(decoded)) == 7
    assert [len(labels) for _, labels in first] == [4, 3]
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert next(iter(kept.batches((16, 24))))[0].shape == (4, 16, 24, 3) and len(decoded) == 14
    monkeypatch.setattr(crops, "KEPT_BYTES", 7 * 32 * 32 * 3 - 1)
    for _ in range(2):
        torch.testing.assert_close(list(kept.batches((32, 32))), first, rtol=0, atol=0)
    assert len(decoded) == 28
    again = CenterCrops(images, count=7, seed=3, channels=3, batch_size=4, workers=0)
    assert again.indices.tolist() == kept.indices.tolist()


def test_images_that_cannot_be_read_are_an_error_before_training(tmp_path):
    save_splits(tmp_path, 2)
    for path in (tmp_path / "val").rglob("*.png"):
        path.write_bytes(b"no image")
    probe = OnlineProbe(*images_of(tmp_path))
    with pytest.raises(DataError, match=r"val: none of its first images can be read"):
        probe.check((32, 32))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data_path DATA --probe_freq 1", "--probe_freq needs images to test on: give them as"),
        ("--data_path DATA --val DATA", "--val has no effect without --probe_freq"),
        ("--synthetic --probe_freq 1 --val DATA", "learns from images of --ffcv or --data_path"),
        ("--data_path DATA --probe_freq 1 --val DATA/none", "DATA/none: there is no such"),
        ("--data_path DATA --probe_freq 1 --val TRAIN", "images to test on as --val FILE.beton"),
        ("--data_path DATA --probe_freq 1 --val FLAT", "without labels, which --probe_freq needs"),
        ("--data_path FLAT --probe_freq 1 --val DATA", "without labels, which --probe_freq needs"),
        ("--data_path DATA --probe_freq 1 --val DATA --parallel fsdp", "--parallel fsdp"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_an_error_before_training(flags, words, data, tmp_path, capfd):
    flat = data / "val" / "class_0"
    (tmp_path / "only" / "train").mkdir(parents=True)
    for name, path in {"DATA": data, "FLAT": flat, "TRAIN": tmp_path / "only"}.items():
        flags, words = flags.replace(name, str(path)), words.replace(name, str(path))
    assert cli.train([*RUN.split(), *flags.split(), "--output_dir", str(tmp_path / "run")]) == 2
    *_, last = capfd.readouterr().err.strip().splitlines()
    assert last.startswith("fastimae-train: error: ") and words in last
    assert not (tmp_path / "run").exists()


def test_a_student_of_your_own_must_be_one_that_has_features(data, tmp_path, capfd):
    own = tmp_path / "linear.py"
    own.write_text(
        "import torch\n"
        "from fastimae.objectives import Objective\n"
        "class Own(Objective):\n"
        "    @classmethod\n"
        "    def build(cls, settings, models):\n"
        "        own = cls()\n"
        "        own.student = torch.nn.Linear(3, 2)\n"
        "        return own\n"
        "    def forward(self, batch): ...\n"
    )
    run = RUN.replace("--objective mae", f"--objective {own}:Own").split()
    flags = ["--probe_freq", "1", "--val", str(data), "--data_path", str(data)]
    assert cli.train([*run, *flags, "--output_dir", str(tmp_path / "run")]) == 2
    assert "which your student is not" in capfd.readouterr().err
