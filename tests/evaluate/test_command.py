"""fastimae-eval: its tasks, their options, and results.json."""

import dataclasses
import datetime
import json
import sys

import pytest

from fastimae.cli import evaluate
from fastimae.evaluate.command import TASKS, task_module
from fastimae.evaluate.options.base import EvalOptions
from fastimae.evaluate.result_files import read_results
from fastimae.evaluate.results import Results
from fastimae.settings import ConfigError, plain_settings


def test_help_names_every_task(capsys):
    for argv in ([], ["-h"], ["--help"], ["--help-all"]):
        assert evaluate(argv) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text and task.about in text for name, task in TASKS.items())


def test_an_unknown_task_is_one_line_that_names_the_others(capsys):
    assert evaluate(["learn"]) == 2
    error = capsys.readouterr().err
    assert "there is no task learn" in error and "linear" in error and error.count("\n") == 1


def test_without_images_all_flags_for_them_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"--val, --ffcv FILE\.beton or --data_path FOLDER"):
        EvalOptions(checkpoint=tmp_path / "mae.pth").val_or_train_images()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_runs_options_of_its_own(name, tmp_path, capsys):
    for library in ("timm", "sklearn", "torchmetrics", "piq"):
        pytest.importorskip(library)
    module, options = task_module(name), TASKS[name].options
    assert dataclasses.is_dataclass(options) and callable(module.run)
    assert options.__doc__ and len(TASKS[name].about) < 60
    assert evaluate([name, "--no_such_flag", "1"]) == 2
    assert "no_such_flag" in capsys.readouterr().err


def test_a_missing_library_is_named_with_its_remedy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    monkeypatch.delitem(sys.modules, "fastimae.evaluate.tasks.linear", raising=False)
    assert evaluate(["linear", "--checkpoint", "x"]) == 2
    assert "linear needs timm" in (error := capsys.readouterr().err)
    assert "pip install 'fastimae[eval]'" in error


def test_results_are_read_as_they_were_saved(tmp_path):
    options = EvalOptions(checkpoint=tmp_path / "run" / "mae.pth", val=tmp_path / "val", seed=4)
    path = Results(tmp_path, "knn", options).save({"acc1": 1 / 3, "by_k": {10: 2}})
    content = read_results(tmp_path)
    assert content == read_results(path) == json.loads(path.read_text())
    assert content["numbers"] == {"acc1": 1 / 3, "by_k": {"10": 2}} and content["task"] == "knn"
    assert content["settings"] == {"crop": "random", **plain_settings(options)}
    assert content["settings"]["seed"] == 4
    assert content["checkpoint"] == str(options.checkpoint)
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(content["date"])
    assert age.total_seconds() < 60
    assert {"fastimae", "torch", "python"} <= set(content["versions"])
    assert {file.name for file in tmp_path.glob("*.*")} == {"results.json", "run.yaml"}


def test_images_and_folder_follow_from_the_options(tmp_path, image_folder):
    options = EvalOptions(checkpoint=tmp_path / "run" / "mae.pth")
    assert options.folder("knn") == tmp_path / "run" / "eval-knn"
    assert dataclasses.replace(options, output_dir=tmp_path / "o").folder("knn") == tmp_path / "o"
    with pytest.raises(ConfigError, match=r"--ffcv FILE\.beton or as --data_path"):
        options.train_images()
    with pytest.raises(ConfigError, match=r"--val FILE\.beton or --val FOLDER"):
        options.val_images()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val").symlink_to(image_folder)
    split = dataclasses.replace(options, data_path=tmp_path / "data")
    assert len(split.val_images()) == 48
    assert len(dataclasses.replace(options, val=tmp_path / "data").val_images()) == 48
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "train")
    with pytest.raises(ConfigError, match="to test on"):  # never on what it learned from
        dataclasses.replace(options, val=tmp_path / "data").val_images()
