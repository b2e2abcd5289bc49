"""What a training run shows: lines in a file, a bar in terminals, and a line for each epoch."""

import itertools
import logging
import os
import re
import signal
import sys

import pytest
from terminal import seen, terminal
from toy_trainer import trainer

from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.console import Console
from fastimae.log import log
from fastimae.progress import LINE_SECONDS, LogHandler

LAST = "checkpoint-last.pth"
RATES = r"\d+ img/s, waiting \d+%(, MFU \d+%)?, \d+\.\d GB"
VALUES = rf"loss \S+, lr \S+, {RATES}"
AT = r"epoch (?P<epoch>\d+)/\d+, step (?P<step>\d+)/\d+"
STEP = rf"{AT}: (?P<loss>loss \S+, )?lr \S+, {RATES}(, (?P<left>[\d:]+) left)?"
EPOCH = rf"epoch (?P<epoch>\d+)/\d+: {VALUES}, in [\d:]+, (?P<left>[\d:]+) left"


class Time:
    """A clock for the module progress that each optimizer step moves on."""

    def __init__(self, run, seconds=1.0):
        self.now = 0.0
        run.optimizer.register_step_post_hook(lambda *_: self.move(seconds))

    def move(self, seconds):
        self.now += seconds

    def monotonic(self):
        return self.now


@pytest.fixture
def lines(monkeypatch):
    """Return the lines that are logged from now on; stderr is no terminal."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)
    before = log.level
    log.setLevel(logging.INFO)
    yield found
    log.setLevel(before)


def test_a_file_gets_the_first_step_later_ones_and_each_epoch(tmp_path, lines, monkeypatch):
    run = trainer(tmp_path, epochs=3, n=480, batch_size=4, log_steps=7, full_speed=1e6)
    monkeypatch.setattr("fastimae.progress.time", Time(run))
    run.run()
    steps = [match for line in lines if (match := re.fullmatch(STEP, line))]
    epochs = [match for line in lines if (match := re.fullmatch(EPOCH, line))]
    assert len(steps) + len(epochs) == len(lines)
    assert [match["epoch"] for match in epochs] == ["1", "2", "3"]
    numbers = [120 * (int(match["epoch"]) - 1) + int(match["step"]) for match in steps]
    assert numbers[:7] == [1, 2, 4, 7, 14, 21, 35]
    assert all(15 <= after - n <= 22 for n, after in itertools.pairwise(numbers[6:]))
    assert [bool(match["loss"]) for match in steps] == [True, False, False] + [True] * (
        len(steps) - 3
    )
    assert [match["left"] for match in steps[:2]] == [None, "05:58"]  # the first also compiles
    assert [match["left"] for match in epochs] == ["04:00", "02:00", "00:00"]


def test_slow_steps_have_lines_between_readings_of_the_loss(tmp_path, lines, monkeypatch):
    run = trainer(tmp_path, epochs=1, n=96, batch_size=4, log_steps=20)
    monkeypatch.setattr("fastimae.progress.time", Time(run, 12))
    run.run()
    steps = [match for line in lines if (match := re.fullmatch(STEP, line))]
    assert [int(match["step"]) for match in steps] == [1, 2, 4, 7, 10, 13, 16, 19, 20, 23]
    assert [int(match["step"]) for match in steps if match["loss"]] == [1, 20]


def test_lines_of_long_runs_are_few_even_if_losses_are_read_often(tmp_path, lines, monkeypatch):
    run = trainer(tmp_path, epochs=1, n=800, batch_size=4, log_steps=1)
    monkeypatch.setattr("fastimae.progress.time", Time(run, 0.5))
    run.run()
    assert len(lines) <= 100 / (LINE_SECONDS / 2) + 10


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_time_left_is_right_after_a_resume(tmp_path, lines, monkeypatch, accum_iter):
    sizes = {"n": 48, "batch_size": 2, "accum_iter": accum_iter, "epochs": 5, "log_steps": 3}
    first = trainer(tmp_path, **sizes)
    steps = iter(range(1, 100))
    first.optimizer.register_step_post_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGTERM) if next(steps) == 40 // accum_iter else None
    )
    assert first.run() is False
    second = trainer(tmp_path, **sizes)
    second.load_state_dict(load_checkpoint(tmp_path / LAST), tmp_path / LAST)
    monkeypatch.setattr("fastimae.progress.time", Time(second, 10))
    lines.clear()
    second.run()
    left = [match["left"] for line in lines if (match := re.fullmatch(EPOCH, line))]
    each = 24 // accum_iter  # optimizer steps of 10 s in an epoch
    expected = [10 * each * epochs for epochs in (3, 2, 1, 0)]
    assert left == [f"{seconds // 60:02}:{seconds % 60:02}" for seconds in expected]
    assert lines[0].startswith(f"epoch 2/5, step {16 // accum_iter + 1}/{each}: ")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_shows_speed_and_waiting_and_whole_lines(tmp_path, monkeypatch, columns):
    monkeypatch.setattr(log, "handlers", [LogHandler()])
    monkeypatch.setattr(log, "propagate", False)
    log.setLevel(logging.INFO)
    with terminal(monkeypatch, columns) as output:
        trainer(tmp_path, epochs=3, log_steps=1, full_speed=1e9).run()
    lines, states = seen(output[0], columns)
    bars = [state for state in states if re.match(r"epoch \d/3 +\d+%", state)]
    assert all(len(bar) < columns for bar in bars)
    shown = [bar for bar in bars if re.search(r"\d+ img/s, waiting \d+%", bar)]
    assert shown and len(shown) >= len(bars) - 2  # all but those before the first step
    assert ("loss" in shown[-1]) == (columns >= 80) and ("step 18/18" in bars[-1]) == (columns > 80)
    assert [line[:9] for line in lines if re.fullmatch(EPOCH, line)] == [
        "epoch 1/3", "epoch 2/3", "epoch 3/3",
    ]  # fmt: skip
    assert lines[-2].startswith("epoch 3/3 100%")


def test_the_epochs_line_has_accuracies_and_broken_images(lines):
    console = Console(epochs=2, total=4, done=0)
    means = {"loss": 1.0, "test_acc1": 76.5, "test_loss": 0.5, "half": 3.0, "epoch": 0}
    console.finish_epoch({**means, "bad_samples": 0}, 61)
    console.finish_epoch({**means, "bad_samples": 3}, 61)
    words = "epoch 1/2: loss 1.0000, test loss 0.5000, acc1 76.50 %"
    assert lines == [f"{words}, in 01:01", f"{words}, 3 broken images, in 01:01"]


def test_other_processes_show_nothing(lines, monkeypatch, capsys):
    with terminal(monkeypatch, 80) as output:
        console = Console(epochs=2, total=4, done=0, quiet=True)
        console.advance()
        console.show({"loss": 1.0})
        console.finish_epoch({"loss": 1.0}, 1)
        console.close()
        sys.stderr.flush()
    assert output == [""] and lines == []
