"""Trainings that are killed, stopped, or cannot save, and go on."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from back_ends import AVAILABLE
from cli.toy_runs import BASE, THREE_EPOCHS, assert_same_training, log_of, step_of, train

from fastimae.engine.checkpoint import load_checkpoint

KILLED = """
import contextlib, json, os, random, signal, sys, threading
import torch, torch._dynamo, torch.utils.tensorboard, tyro
from fastimae import build, cli
from fastimae.engine import peak

peak.CPU_SPAN = 0.0

def train_and_die(argv, last, wait):
    save, saved = torch.save, []

    def counting(*args):
        save(*args)
        saved.append(1)
        if len(saved) == last:
            threading.Timer(wait, os.kill, (os.getpid(), signal.SIGKILL)).start()

    torch.save = counting
    os.setsid()
    cli.train(argv)
    os._exit(1)

for argv in json.loads(sys.argv[1]):
    moment = random.randrange(2, 5), random.uniform(0, 0.05)
    child = os.fork() or train_and_die(argv, *moment)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # a worker that just starts does not notice
        os.killpg(child, signal.SIGKILL)
"""
"""Trains in a process for each command, which begins with the slow imports done, and is killed at a
random moment after one of the first saves, even on a slow machine."""
WITH_WORKERS = {"ffcv": 4, "dataset": 1} | ({"dali": 2} if "dali-1" in AVAILABLE else {})
"""Sources, and the workers of runs that are killed."""


@pytest.fixture(scope="module")
def killed(source, tmp_path_factory):
    """Start a run for each source that is then killed; return the folder and command of each."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in WITH_WORKERS}
    commands = {
        kind: f"{source[kind]} {THREE_EPOCHS} --num_workers {workers} --save_steps 2 "
        f"--output_dir {folders[kind]}"
        for kind, workers in WITH_WORKERS.items()
    }
    lines = json.dumps([command.split() for command in commands.values()])
    said = tmp_path_factory.mktemp("said") / "said.txt"  # a worker would keep a pipe open
    with said.open("w") as file:
        program = [sys.executable, "-c", KILLED, lines]
        done = subprocess.run(program, stdout=file, stderr=file, timeout=150, check=False)
    assert done.returncode == 0, said.read_text()[-3000:]
    return {kind: (folders[kind], commands[kind]) for kind in WITH_WORKERS}


@pytest.mark.parametrize("kind", ["ffcv", "dali", "dataset"])
def test_kill_and_resume_equals_an_uninterrupted_run(source, killed, tmp_path, kind):
    if kind not in WITH_WORKERS:
        pytest.skip("DALI is not installed")
    folder, command = killed[kind]
    assert step_of(folder / "checkpoint-last.pth") < (2, 0), "too late to prove anything"
    assert train(f"{command} --resume auto") == 0
    straight = f"{source[kind]} {THREE_EPOCHS} --num_workers 0 --output_dir {tmp_path}"
    assert train(straight) == 0
    assert_same_training(tmp_path, folder)
    assert [line["epoch"] for line in log_of(folder)] == list(range(3))
    for a, b in zip(log_of(tmp_path), log_of(folder), strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-12)


def test_sigterm_saves_mid_epoch_and_exits_0(source, tmp_path, monkeypatch, capsys):
    """Sent after a save in the second epoch; test_stopping.py stops processes."""
    command = f"{source['ffcv']} {BASE} --output_dir {tmp_path} --save_steps 3"
    real, before = torch.save, (1, 3)

    def saving(content, file):
        real(content, file)
        if (content["epoch"], content["step"]) == before:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(torch, "save", saving)
    assert train(f"{command} --epochs 4") == 0
    assert "--resume auto" in capsys.readouterr().err
    monkeypatch.undo()
    assert before < step_of(tmp_path / "checkpoint-last.pth") < (1, 6)
    assert train(f"{command} --resume auto --epochs 3") == 0
    assert log_of(tmp_path)[-1]["epoch"] == 2


def test_a_last_save_that_fails_exits_2_and_keeps_the_earlier_checkpoint(
    source, tmp_path, monkeypatch, capsys
):
    command = f"{source['ffcv']} {BASE} --epochs 3 --output_dir {tmp_path}"
    saves = []
    real = torch.save

    def full_disk(content, file):
        saves.append(1)
        if len(saves) == 3:
            raise OSError(28, "No space left on device")
        real(content, file)

    monkeypatch.setattr(torch, "save", full_disk)
    assert train(command) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and "--output_dir" in error and "Traceback" not in error
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["epoch"] == 1
    assert train(f"{command} --resume auto") == 0
    assert [line["epoch"] for line in log_of(tmp_path)] == [0, 1, 2]
