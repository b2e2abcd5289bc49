"""Weights & Biases, offline: the same values as TensorBoard's, and it never ends a run."""

import pytest
from PIL import Image
from reports import board_of, log_of

pytest.importorskip("wandb")
import wandb
import wandb_file

from fastimae.engine import wandb_log
from fastimae.engine.plan import LoopSettings
from fastimae.engine.run_file import read_run_file
from fastimae.settings import ConfigError


@pytest.fixture
def offline(monkeypatch, tmp_path_factory):
    """Make W&B write to the run's folder only: nothing to the network or a home folder."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
    wandb.teardown()  # it keeps what it has read from the environment


def losses(values):
    """Return (step, loss) of each log line, and of each epoch's."""
    steps, epochs = "train_loss", "epoch/train_loss"
    return [
        [(row["_step"], row[name]) for row in values if name in row] for name in (steps, epochs)
    ]


def test_it_gets_the_same_values_pictures_and_settings(tmp_path, train, offline):
    train("--epochs", "1", "--wandb", "my-project")
    train("--epochs", "2", "--wandb", "my-project", "--resume", "auto")
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    (id_,) = {entry["run"] for entry in read_run_file(tmp_path)["starts"]}
    for file in files:
        run = wandb_file.run_of(file)
        assert (run.run_id, run.project) == (id_, "my-project")
    assert [wandb_file.config(file)["epochs"] for file in files] == [1, 2]
    assert wandb_file.config(files[0])["lr"] == 1e-2
    values = [row for file in files for row in wandb_file.history(file)]
    board = board_of(tmp_path)
    expected = [
        [(e.step, pytest.approx(e.value)) for e in board.Scalars(name)]
        for name in ("train_loss", "epoch/train_loss")
    ]
    assert losses(values) == expected and len(expected[0]) == 6
    pictures = [row["reconstruction/path"] for row in values if "reconstruction/path" in row]
    assert len(pictures) == 2
    for file, name in zip(files, pictures, strict=True):
        assert Image.open(file.parent / "files" / name).size == (1, 1)


def test_without_a_login_or_a_network_it_is_offline(tmp_path, train, offline, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    train("--epochs", "1", "--wandb", "p")
    said = capsys.readouterr().err
    assert "No API key" in said and "logging offline instead" in said and "wandb sync" in said
    wandb.teardown()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_log, "INIT_SECONDS", 1)
    train("--epochs", "2", "--wandb", "p", "--resume", "auto")
    said = capsys.readouterr().err
    assert "logging offline instead" in said and "Traceback" not in said
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    steps = [[row["_step"] for row in wandb_file.history(file)] for file in files]
    assert steps == [[100, 500, 1000], [1100, 1500, 2000]]


def test_an_error_does_not_end_the_run(tmp_path, train, offline, monkeypatch, capsys):
    def fail(*_, **__):
        raise RuntimeError("no\nserver")

    monkeypatch.setattr(wandb.Run, "log", fail)
    train("--epochs", "1", "--wandb", "p")
    assert capsys.readouterr().err.count("training continues without it: no") == 1
    monkeypatch.setattr(wandb, "init", fail)
    train("--epochs", "2", "--wandb", "p", "--resume", "auto")
    assert "Weights & Biases does not start: no" in capsys.readouterr().err
    assert [line["epoch"] for line in log_of(tmp_path)] == [0, 1]


def test_a_slow_upload_does_not_keep_the_run_from_ending(
    tmp_path, train, offline, monkeypatch, capsys
):
    def slow(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(wandb.Run, "finish", slow)
    train("--epochs", "1", "--wandb", "p")
    assert "is slow: wandb sync" in capsys.readouterr().err


def test_not_installed_is_a_line_with_the_command(monkeypatch):
    monkeypatch.setattr("fastimae.engine.plan.version", lambda _: None)
    LoopSettings().check()
    with pytest.raises(ConfigError, match=r"--wandb .* pip install 'fastimae\[wandb\]'"):
        LoopSettings(wandb="p").check()
