"""Runs side by side: what differs is there, what is the same is not, and nothing is mixed up."""

import json

import pytest
from tiny import save_run, tiny_model

from fastimae.evaluate.report.compare import CompareOptions, aligned, compare, differing, run
from fastimae.evaluate.report.runs import read_run
from fastimae.settings import ConfigError


@pytest.fixture
def runs(tmp_path):
    """Two runs with different settings, losses and evaluations."""
    for name, loss, beta, acc1 in (("first", 0.5, 1.0, 60.5), ("second", 0.25, 2.0, 70.25)):
        folder = tmp_path / name
        save_run(folder, tiny_model(), epochs=1, mix_beta=beta, output_dir=str(folder), seed=0)
        line = {"epoch": 0, "train_loss": loss, "train_lr": 0.1, "img_per_s": 10}
        (folder / "log.txt").write_text(json.dumps(line) + "\n")
        write(folder / "eval-linear", "linear", {"acc1": acc1, "note": "words"})
        table = [
            {"model": name, "mix_ratio": ratio, "before": 10 * ratio + beta} for ratio in (0.1, 0.3)
        ]
        write(folder / "eval-separability", "separability", {"table": table})
    write(tmp_path / "second" / "eval-knn", "knn", {"acc1": 44.0})
    return [tmp_path / "first", tmp_path / "second"]


def write(folder, task, numbers):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"task": task, "numbers": numbers}))


def test_tables_hold_each_runs_own_numbers(runs):
    parts = compare([read_run(folder) for folder in runs])
    assert parts["settings"] == [{"": "mix_beta", "first": 1.0, "second": 2.0}]
    assert parts["losses"] == [{"": "train_loss", "first": 0.5, "second": 0.25}]
    assert parts["numbers"] == [
        {"": "linear acc1", "first": 60.5, "second": 70.25},
        {"": "knn acc1", "first": None, "second": 44.0},
    ]
    assert parts["details"] == [
        {"": "separability before (mix_ratio 0.1)", "first": 2.0, "second": 3.0},
        {"": "separability before (mix_ratio 0.3)", "first": 4.0, "second": 5.0},
    ]


def test_settings_that_differ():
    rows = differing([{"a": 1, "b": 2, "device": "x"}, {"a": 1, "b": 3, "c": [4]}], ["m", "n"])
    assert rows == [{"": "b", "m": 2, "n": 3}, {"": "c", "m": None, "n": [4]}]
    assert aligned([], []) == []


def test_run_prints_markdown_and_writes_both_files(runs, tmp_path, capsys):
    options = CompareOptions(runs=tuple(runs), output_dir=tmp_path / "out")
    run(options)
    printed = capsys.readouterr().out
    assert "| mix_beta | 1 | 2 |" in printed and "| linear acc1 | 60.5 | 70.25 |" in printed
    assert "| knn acc1 | - | 44 |" in printed and "separability before" not in printed
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["runs"] == [str(folder) for folder in runs]
    assert content["details"][1]["second"] == 5.0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.count("<polyline") == 2 and "70.25" in page and "http" not in page
    options.all = True
    run(options)
    assert "| separability before (mix_ratio 0.1) | 2 | 3 |" in capsys.readouterr().out


def test_one_run_is_nothing_to_compare(runs):
    with pytest.raises(ConfigError, match="two or more"):
        run(CompareOptions(runs=(runs[0],)))
