"""run.yaml: settings that read back, and an entry for each start, however it ended."""

import shlex
import subprocess
import sys

import pytest
import yaml
from toy_trainer import Squares, trainer

from fastimae import cli, machine
from fastimae.arguments import parse_training
from fastimae.engine import run_file
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import ALONE, World
from fastimae.engine.metrics import NonFiniteLoss
from fastimae.engine.run_file import RUN_FILE, RunFile, read_run_file

TINY = (
    "--synthetic --synthetic_samples 8 --num_workers 0 --device cpu --precision fp32 "
    "--model mae_vit_nano_patch16 --input_size 32 --batch_size 4 --warmup_epochs 0 --vis_freq 0"
)


def outcomes(folder):
    return [entry.get("outcome") for entry in read_run_file(folder)["starts"]]


def test_a_run_leaves_its_settings_and_how_it_was_made(tmp_path, capsys):
    out = tmp_path / "a run's \N{LATIN SMALL LETTER U WITH DIAERESIS}"
    flags = [*TINY.split(), "--epochs", "1", "--output_dir", str(out)]
    assert parse_training("fastimae-train", [*flags, "--print_config"]) is None
    printed = capsys.readouterr().out
    assert cli.train(flags) == 0
    assert (out / RUN_FILE).read_text(encoding="utf-8").startswith(printed + "starts:\n")
    (entry,) = read_run_file(out)["starts"]
    assert shlex.split(entry["command"]) == ["fastimae-train", *flags]
    assert entry["started"] <= entry["ended"] and entry["outcome"] == "finished"
    assert (entry["processes"], entry["epoch"]) == (1, 0.0)
    assert entry["run"] == load_checkpoint(out / "checkpoint-last.pth")["args"]["run"]
    assert entry["device"] and entry["host"] and {"python", "torch"} < entry["versions"].keys()
    assert entry["commit"] == machine.checkout_commit()
    # Read back, it is the same run: same settings, and a folder of its own again.
    assert cli.train(["--config", str(out / RUN_FILE), "--seed", "1"]) == 0
    assert len(read_run_file(out)["starts"]) == 1 and read_run_file(out)["seed"] == 1
    assert read_run_file(out / "previous-1")["seed"] == 0


def test_a_resumed_run_adds_to_its_file(tmp_path):
    for epochs in (1, 2, 2):  # the third finds the run finished
        flags = f"{TINY} --epochs {epochs} --output_dir {tmp_path} --resume auto"
        assert cli.train(flags.split()) == 0
    content = read_run_file(tmp_path)
    assert content["epochs"] == 2 and outcomes(tmp_path) == ["finished", "finished"]
    first, second = content["starts"]
    assert (first["epoch"], second["epoch"]) == (0.0, 1.0) and first["run"] == second["run"]


def test_a_command_that_cannot_start_leaves_no_file(tmp_path, capsys):
    flags = TINY.replace("--synthetic --synthetic_samples 8", f"--data_path {tmp_path / 'none'}")
    assert cli.train([*flags.split(), "--output_dir", str(tmp_path / "out")]) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "out" / RUN_FILE).exists()


def stop(run):
    run.asked_to_stop = True


def interrupt(run):
    raise KeyboardInterrupt


@pytest.mark.parametrize(("end", "outcome"), [(stop, "stopped"), (interrupt, "interrupted")])
def test_the_file_says_that_a_signal_ended_the_run(tmp_path, end, outcome, monkeypatch):
    run = trainer(tmp_path)
    monkeypatch.setattr(run.throttle, "wait", lambda: end(run))
    try:
        run.run()
    except KeyboardInterrupt:
        assert end is interrupt
    assert outcomes(tmp_path) == [outcome]
    assert "ended" in read_run_file(tmp_path)["starts"][0]


def test_the_file_says_what_went_wrong(tmp_path):
    with pytest.raises(NonFiniteLoss):
        trainer(tmp_path, objective=Squares(poison=8)).run()
    (outcome,) = outcomes(tmp_path)
    assert outcome.startswith("error: NonFiniteLoss: the loss is not finite")


def test_a_killed_run_has_no_end(tmp_path):
    """A start is in the file before the first step."""
    RunFile(tmp_path, {"epochs": 3}).record(ALONE)
    with RunFile(tmp_path, {"epochs": 4}).recording(ALONE, run="7"):
        killed = read_run_file(tmp_path)
    assert killed["epochs"] == 4 and killed["starts"][1]["run"] == "7"
    assert not {"ended", "outcome"} & killed["starts"][1].keys()


def test_only_the_main_process_writes_and_starts_git(tmp_path, monkeypatch):
    monkeypatch.setattr(run_file, "checkout_commit", lambda: pytest.fail("git was started"))
    with RunFile(tmp_path, {}).recording(World(1, 2, ALONE.device)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, caplog, heard):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_file, "write_text", full)
    assert trainer(tmp_path).run()
    assert f"cannot write {tmp_path / RUN_FILE}" in caplog.text


@pytest.mark.parametrize("text", [None, b"a: [", b"- 1", b"\xff\xfe\x00", b""])
def test_a_folder_without_a_file_of_ours_is_no_error(tmp_path, text):
    if text is not None:
        (tmp_path / RUN_FILE).write_bytes(text)
    assert read_run_file(tmp_path) is None
    RunFile(tmp_path, {"epochs": 3}).record(ALONE)
    assert outcomes(tmp_path) == ["finished"]


def test_a_list_of_starts_that_is_none_is_replaced(tmp_path):
    (tmp_path / RUN_FILE).write_text("epochs: 3\nstarts: 5\n")
    RunFile(tmp_path, {"epochs": 3}).record(ALONE)
    assert outcomes(tmp_path) == ["finished"]


def test_only_settings_that_make_the_run_make_it_new(tmp_path):
    for settings, is_new in (
        ({"epochs": 3, "resume": ""}, True),
        ({"epochs": 3, "resume": "auto"}, False),
        ({"epochs": 4, "resume": "auto"}, True),
    ):
        file = RunFile(tmp_path, settings)
        file.record(ALONE)
        assert file.is_new == is_new


def test_reading_needs_neither_torch_nor_tyro(tmp_path):
    (tmp_path / RUN_FILE).write_text("epochs: 3\n")
    code = (
        "import sys, pathlib; from fastimae.engine.run_file import read_run_file; "
        f"assert read_run_file(pathlib.Path({str(tmp_path)!r})) == {{'epochs': 3}}; "
        "assert not {'torch', 'tyro'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """Return a function that runs git in a new checkout, which the package is now imported from."""
    (tmp_path / "fastimae").mkdir()
    (tmp_path / "fastimae" / "machine.py").write_text("")
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "fastimae" / "machine.py"))

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    return git


def test_the_commit_is_that_of_the_checkout(tmp_path, checkout, monkeypatch):
    commit = checkout("rev-parse", "HEAD").stdout.strip()
    checkout("tag", "-a", "v1", "-m", "a version")
    assert machine.checkout_commit() == commit
    (tmp_path / "fastimae" / "machine.py").write_text("changed")
    assert machine.checkout_commit() == f"{commit}-dirty"


def test_a_package_installed_inside_another_repository_has_no_commit(
    tmp_path, checkout, monkeypatch
):
    packages = tmp_path / ".venv" / "fastimae"
    packages.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(packages / "machine.py"))
    assert machine.checkout_commit() is None


def test_the_file_is_plain_yaml(tmp_path):
    RunFile(tmp_path, {"a": [1, 0.5], "b": None, "c": "1e-3"}).record(ALONE)
    content = yaml.safe_load((tmp_path / RUN_FILE).read_text())
    assert {name: content[name] for name in "abc"} == {"a": [1, 0.5], "b": None, "c": "1e-3"}
    assert isinstance(content["starts"][0]["started"], str)
