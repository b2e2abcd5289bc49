"""The linear probe: as good as logistic regression, resumable, and its parts."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from tiny import tiny_model
from toy_images import save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastimae.engine.distributed import World
from fastimae.evaluate.features import resolve_pool
from fastimae.evaluate.labels.feature_cache import Features
from fastimae.evaluate.labels.probe import ProbeData
from fastimae.settings import ConfigError

linear_model = pytest.importorskip("sklearn.linear_model")
pytest.importorskip("timm")
from fastimae.evaluate.tasks import linear  # noqa: E402


def features(count, classes=5, width=24, seed=0):
    """Linearly separable except for a few, with very different scales."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    rows = (centres[labels] + 0.8 * rng.normal(size=(count, width))) * np.logspace(-2, 2, width)
    return Features(rows=torch.from_numpy(rows).float(), labels=torch.from_numpy(labels))


DATA = ProbeData(train=features(1500), val=features(1000, seed=1), classes=5)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Function: options of a short run on DATA, with results in a folder of the given name."""
    monkeypatch.setattr(linear, "probe_data", lambda *_: DATA)

    def make(name="out", **changes):
        settings = {"batch_size": 100, "warmup_epochs": 2, "epochs": 12, "lr": 0.1, **changes}
        return linear.LinearOptions(
            checkpoint=tmp_path / "mae.pth", output_dir=tmp_path / name, device="cpu", **settings
        )

    return make


def numbers_of(options):
    return json.loads((options.output_dir / "results.json").read_text())["numbers"]


@pytest.mark.parametrize("changes", [{}, {"opt": "lars", "lr": 20}])
def test_it_is_as_good_as_logistic_regression(options, changes):
    scale = DATA.train.rows.std(0)
    best = linear_model.LogisticRegression(max_iter=1000)
    best.fit(DATA.train.rows / scale, DATA.train.labels)
    expected = 100 * best.score(DATA.val.rows / scale, DATA.val.labels)
    assert 85 < expected < 100
    run = options(**changes)
    linear.run(run)
    numbers = numbers_of(run)
    assert abs(numbers["acc1"] - expected) < 1
    assert numbers["acc5"] == 100 and numbers["train_images"] == 1500
    lines = [json.loads(line) for line in (run.output_dir / "log.txt").read_text().splitlines()]
    assert len(lines) == 12 and lines[-1]["test_acc1"] == numbers["acc1"]
    assert numbers["best_acc1"] == max(line["test_acc1"] for line in lines)
    best = load_checkpoint(run.output_dir / "checkpoint-best.pth")
    assert best["metrics"]["test_acc1"] == numbers["best_acc1"]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(options, monkeypatch):
    whole = options("whole", epochs=4)
    linear.run(whole)
    stopped = options("stopped", epochs=4, resume="auto")
    with monkeypatch.context() as patch:
        real, calls = linear.Classification.forward, []

        def stop(self, batch):
            calls.append(1)
            if len(calls) == 22:  # in the second epoch
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, batch)

        patch.setattr(linear.Classification, "forward", stop)
        linear.run(stopped)
        assert len(calls) == 22 and not (stopped.output_dir / "results.json").exists()
    linear.run(stopped)
    assert numbers_of(stopped) == numbers_of(whole)
    a, b = (
        load_checkpoint(run.output_dir / "checkpoint-last.pth")["model"] for run in (whole, stopped)
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_new_run_puts_the_old_one_aside(options, tmp_path):
    run = options(epochs=2)
    linear.run(run)
    first = numbers_of(run)
    linear.run(dataclasses.replace(run, seed=1))
    old = run.output_dir / "previous-1"
    assert json.loads((old / "results.json").read_text())["numbers"] == first
    assert {"log.txt", "checkpoint-last.pth", "checkpoint-best.pth"} <= {
        f.name for f in old.iterdir()
    }
    assert len((run.output_dir / "log.txt").read_text().splitlines()) == 2
    assert numbers_of(run)["loss"] != first["loss"]


def test_the_probe_normalises_without_learning_to():
    probe = linear.build_probe(DATA, seed=0)
    assert [name for name, _ in probe.named_parameters()] == ["1.weight", "1.bias"]
    rows = DATA.train.rows
    normed = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(probe(rows), normed @ probe[1].weight.T, atol=1e-4, rtol=1e-4)


def test_lars_scales_the_matrix_by_its_trust_ratio(options):
    probe = linear.build_probe(DATA, seed=0)
    before = {name: p.detach().clone() for name, p in probe.named_parameters()}
    optimizer = linear.build_optimizer(probe, options(opt="lars"), lr=2.0)
    probe(DATA.train.rows).square().sum().backward()
    optimizer.step()
    weight, bias = probe[1].weight, probe[1].bias
    ratio = 0.001 * before["1.weight"].norm() / weight.grad.norm()
    torch.testing.assert_close(weight.detach(), before["1.weight"] - 2.0 * ratio * weight.grad)
    torch.testing.assert_close(bias.detach(), before["1.bias"] - 2.0 * bias.grad)


def test_the_rate_and_the_pooling_are_maes():
    options = linear.LinearOptions(checkpoint="x", blr=0.1, batch_size=512)
    assert options.peak_lr(World(0, 4, None)) == pytest.approx(0.8)
    assert resolve_pool(tiny_model(), options.pool) == "cls"


def test_the_command_separates_colours(tmp_path):
    save_mae(tmp_path / "mae.pth")
    save_splits(tmp_path / "data", 8)
    command = ["linear", "--checkpoint", str(tmp_path / "mae.pth"), "--num_workers", "0"]
    command += ["--data_path", str(tmp_path / "data"), "--device", "cpu", "--batch_size", "12"]
    assert evaluate([*command, "--epochs", "20", "--warmup_epochs", "1", "--lr", "0.1"]) == 0
    content = json.loads((tmp_path / "eval-linear" / "results.json").read_text())
    assert content["numbers"]["acc1"] == 100 and content["numbers"]["classes"] == 3


def test_features_that_a_probe_has_made_are_no_earlier_run(options, caplog):
    run = options(epochs=1)
    kept = run.features_folder() / "of-this-run.safetensors"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for _ in range(2):
        linear.run(run)
        assert kept.exists()
    assert caplog.text.count("held an earlier run") == 1


def test_the_run_of_the_checkpoint_makes_no_room(options, tmp_path):
    run = options(epochs=1)
    run.output_dir.mkdir()
    run.checkpoint = run.output_dir / "checkpoint-last.pth"
    run.checkpoint.write_text("precious")
    with pytest.raises(ConfigError, match=r"holds --checkpoint .*: choose another"):
        linear.run(run)
    assert run.checkpoint.read_text() == "precious"


def as_before(path):
    """Remove from a checkpoint which images it was tested on."""
    content = load_checkpoint(path)
    del content["loader"]["val"]
    save_checkpoint(path, content)


def test_a_finished_run_gives_its_numbers_out_as_nothing_else(options, tmp_path):
    run = options(epochs=2)
    linear.run(run)
    first = numbers_of(run)
    again = dataclasses.replace(run, resume="auto")
    linear.run(again)
    other = dataclasses.replace(again, val=tmp_path / "moved")
    linear.run(other)
    assert numbers_of(run) == first
    as_before(run.output_dir / "checkpoint-last.pth")
    linear.run(again)
    assert numbers_of(run) == first
    with pytest.raises(CheckpointError, match=r"not of these images \(--val None -> "):
        linear.run(other)
    linear.run(dataclasses.replace(other, epochs=3))
    assert numbers_of(run)["epochs"] == 3


def results_of(options):
    return json.loads((options.output_dir / "results.json").read_text())


def test_a_finished_run_keeps_the_settings_of_its_numbers(options, caplog):
    run = options(epochs=2)
    linear.run(run)
    first = results_of(run)
    other = dataclasses.replace(
        run, resume="auto", lr=0.5, accum_iter=3, min_lr=1e-3, opt="lars", log_steps=7
    )
    with pytest.raises(CheckpointError, match="with --opt sgd: --opt lars cannot"):
        linear.run(other)
    linear.run(dataclasses.replace(other, opt="sgd"))
    again = results_of(run)
    assert again["numbers"] == first["numbers"]
    expected = {**first["settings"], "resume": "auto", "log_steps": 7}
    assert again["settings"] == expected
    line = "a finished run keeps its settings: --accum_iter 1 -> 3, --lr 0.1 -> 0.5, --min_lr "
    assert line in caplog.text
    linear.run(dataclasses.replace(other, opt="sgd", epochs=3))
    assert (results_of(run)["settings"]["lr"], results_of(run)["numbers"]["epochs"]) == (0.5, 3)


def test_a_run_that_ends_where_it_stopped_had_the_epochs_of_before(options, monkeypatch):
    """Its learning rates were those of a longer training."""
    run = options(epochs=4, resume="auto")
    with monkeypatch.context() as patch:
        calls, real = [], linear.Classification.forward

        def stop(self, batch):
            calls.append(1)
            if len(calls) == 30:  # the last of the second epoch
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, batch)

        patch.setattr(linear.Classification, "forward", stop)
        linear.run(run)
    linear.run(dataclasses.replace(run, epochs=2))
    found = results_of(run)
    assert (found["numbers"]["epochs"], found["settings"]["epochs"]) == (2, 4)


def test_the_best_is_that_of_one_test_set(options, monkeypatch, caplog):
    """After a change of --val, the best is that of the epochs tested on the new images."""
    run = options(epochs=2, resume="auto")
    linear.run(run)
    assert numbers_of(run)["best_acc1"] > 50
    wrong = Features(rows=DATA.val.rows, labels=(DATA.val.labels + 1) % 5)  # always worse
    harder = dataclasses.replace(DATA, val=wrong, tested_on=1)
    monkeypatch.setattr(linear, "probe_data", lambda *_: harder)
    linear.run(dataclasses.replace(run, epochs=4))
    lines = [json.loads(line) for line in (run.output_dir / "log.txt").read_text().splitlines()]
    assert numbers_of(run)["best_acc1"] == max(line["test_acc1"] for line in lines[2:]) < 50
    kept = load_checkpoint(run.output_dir / "checkpoint-best.pth")
    assert kept["epoch"] == numbers_of(run)["best_epoch"] >= 2
    assert caplog.text.count("the test images have changed") == 1
    linear.run(dataclasses.replace(run, epochs=5))
    assert caplog.text.count("the test images have changed") == 1


@pytest.mark.parametrize("task", ["linear", "finetune"])
def test_other_files_in_the_same_folder_are_other_images(tmp_path, capsys, task):
    """A finished run's numbers must not be reported for other images of the same path."""
    save_mae(tmp_path / "mae.pth", depth=1)
    save_splits(tmp_path / "data", 8)
    command = [task, "--checkpoint", str(tmp_path / "mae.pth"), "--num_workers", "0"]
    command += ["--data_path", str(tmp_path / "data"), "--device", "cpu", "--batch_size", "12"]
    command += ["--warmup_epochs", "0", "--resume", "auto"]
    assert evaluate([*command, "--epochs", "1"]) == 0
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    elsewhere = [word.replace(str(tmp_path / "data"), str(tmp_path / "copy")) for word in command]
    assert evaluate([*elsewhere, "--epochs", "1"]) == 0
    shutil.rmtree(tmp_path / "data")
    shutil.move(tmp_path / "copy", tmp_path / "data")  # the same data
    assert evaluate([*command, "--epochs", "1"]) == 0
    told = {"train": "resumed with other data", "val": "test images"}
    for epochs, part in enumerate(told, 1):
        some = sorted((tmp_path / "data" / part / "a_red").iterdir())
        shutil.copy(some[1], some[0])  # the first of 16 that are looked at
        capsys.readouterr()
        assert evaluate([*command, "--epochs", str(epochs)]) == 2
        said = capsys.readouterr().err
        assert "results are not of these images (the files hold other images)" in said
        assert evaluate([*command, "--epochs", str(epochs + 1)]) == 0
        assert told[part] in capsys.readouterr().err
