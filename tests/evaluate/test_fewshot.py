"""Few labels: the choice of images, and accuracy against scikit-learn."""

import json

import numpy as np
import pytest
import torch
from toy_images import save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.evaluate.labels.feature_cache import Features
from fastimae.evaluate.labels.few_labels import choose
from fastimae.evaluate.labels.probe import ProbeData

linear_model = pytest.importorskip("sklearn.linear_model")
from fastimae.evaluate.tasks.fewshot import FewshotOptions, fewshot  # noqa: E402


def options(tmp_path, **changes):
    return FewshotOptions(checkpoint=tmp_path / "mae.pth", **changes)


def features(count, classes=4, seed=0, width=5):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = np.random.default_rng(9).normal(size=(classes, width))[labels]
    rows = 10 + 3 * (rows + rng.normal(size=(count, width)))
    return Features(rows=torch.from_numpy(rows).float(), labels=torch.from_numpy(labels))


def test_numbers_are_those_of_scikit_learn(tmp_path):
    data = ProbeData(train=features(400), val=features(200, seed=1), classes=4)
    numbers = fewshot(options(tmp_path, shots=6, draws=3, seed=5), data)
    expected = []
    for draw in range(3):
        chosen = choose(data.train.labels.numpy(), (5, draw), shots=6)
        rows, labels = data.train.rows[chosen].numpy(), data.train.labels[chosen].numpy()
        mean, std = rows.mean(0), rows.std(0)
        probe = linear_model.LogisticRegression(max_iter=1000).fit((rows - mean) / std, labels)
        expected.append(100 * probe.score((data.val.rows.numpy() - mean) / std, data.val.labels))
    assert [draw["acc1"] for draw in numbers["draws"]] == pytest.approx(expected)
    assert len(set(expected)) > 1
    assert numbers["acc1"] == pytest.approx(np.mean(expected))
    assert numbers["acc1_std"] == pytest.approx(np.std(expected, ddof=1))
    assert numbers["labels"] == 24 and numbers["acc5"] == 100


def test_classes_without_labels_are_never_guessed(tmp_path):
    train, val = features(60, classes=2), features(40, classes=4)
    numbers = fewshot(
        options(tmp_path, shots=9, draws=1), ProbeData(train=train, val=val, classes=4)
    )
    assert 30 < numbers["acc1"] <= 50  # only half of the test images have a known class


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--shots", "3", "--fraction", "0.1"], "give one"),
        (["--shots", "0"], "--shots must be positive"),
        (["--fraction", "2"], "--fraction must be above 0"),
        (["--draws", "0"], "--draws must be positive"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path, capsys, changes, message):
    assert evaluate(["fewshot", "--checkpoint", str(tmp_path / "x.pth"), *changes]) == 2
    assert message in capsys.readouterr().err


def test_the_command_learns_from_two_labels_a_class(tmp_path):
    save_mae(tmp_path / "mae.pth")
    save_splits(tmp_path / "data", 8)
    command = ["fewshot", "--checkpoint", str(tmp_path / "mae.pth"), "--shots", "2"]
    command += ["--data_path", str(tmp_path / "data"), "--num_workers", "0", "--device", "cpu"]
    assert evaluate(command) == 0
    numbers = json.loads((tmp_path / "eval-fewshot" / "results.json").read_text())["numbers"]
    assert numbers["acc1"] > 90 and numbers["labels"] == 6 and len(numbers["draws"]) == 5
