"""A full disk ends no run before its last save, and loses no line of its log."""

import errno
import logging
import os
import re

import pytest
import torch
from small_disk import run_on_small_disk
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar
from toy_trainer import trainer

from fastimae import best_effort as best_effort_module
from fastimae.best_effort import GrowingFile, best_effort
from fastimae.engine.checkpoint import LAST, CheckpointError, load_checkpoint
from fastimae.engine.event_file import EventFile

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(autouse=True)
def nothing_named_yet(monkeypatch):
    monkeypatch.setattr(best_effort_module, "_named", set())


def test_a_file_is_named_once(tmp_path, caplog):
    for name in ("a", "b", "a"):
        with best_effort(tmp_path / name):
            raise FULL
    first, second = caplog.messages
    assert f"cannot write {tmp_path / 'a'} (No space left on device)" in first and "/b" in second
    with pytest.raises(ZeroDivisionError), best_effort(tmp_path / "a"):
        1 / 0  # noqa: B018


@pytest.fixture
def disk(monkeypatch):
    """Return a dict whose "room" is the bytes that still fit, for `GrowingFile`."""
    state = {"room": 10**9}
    real = best_effort_module.Path.open

    def small(path, mode="r", **more):
        file = real(path, mode, **more)
        return _Small(file, state) if "a" in mode else file

    monkeypatch.setattr(best_effort_module.Path, "open", small)
    return state


class _Small:
    """A file on a disk that fills up: it takes what fits, then raises."""

    def __init__(self, file, state):
        self.file, self.state = file, state

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.state["room"]:
            raise FULL
        written = self.file.write(data[: self.state["room"]])
        self.state["room"] -= written
        return written


def test_lines_that_do_not_fit_are_written_when_there_is_room(tmp_path, disk, caplog):
    file = GrowingFile(tmp_path / "log.txt")
    for number, room in enumerate((100, 3, 0, 0, 100, 100)):
        disk["room"] = room
        file.append(b"line %d\n" % number)
        assert (tmp_path / "log.txt").read_bytes().endswith(b"\n"), "no half lines"
        expected = 1 if number < 4 else number + 1
        assert len((tmp_path / "log.txt").read_bytes().splitlines()) == expected
    assert (tmp_path / "log.txt").read_text() == "".join(f"line {n}\n" for n in range(6))
    assert len(caplog.messages) == 1 and str(tmp_path / "log.txt") in caplog.messages[0]


def points(folder):
    events = EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars("loss")]


def test_tensorboard_reads_all_points_after_a_full_disk(tmp_path, disk, monkeypatch):
    monkeypatch.setattr("fastimae.engine.event_file._FLUSH_SECONDS", 0)
    events = EventFile(tmp_path)
    for step, room in enumerate((10**6, 5, 0, 10**6, 10**6)):
        disk["room"] = room
        events.add(scalar("loss", step / 2), step)
    events.flush()
    assert points(tmp_path) == [(step, step / 2) for step in range(5)]


def write_ours(folder, purge, values):
    events = EventFile(folder, suffix=".run", purge_from=purge)
    for step, value in values.items():
        events.add(scalar("loss", value), step)
    events.flush()


def write_torchs(folder, purge, values):
    board = SummaryWriter(folder, filename_suffix=".run", purge_step=purge)
    for step, value in values.items():
        board.add_scalar("loss", value, step)
    board.close()


def test_event_files_are_those_of_torch(tmp_path):
    """Names, points, and points that a resumed run writes again."""
    for write in (write_ours, write_torchs):
        write(tmp_path / write.__name__, None, {step: step for step in range(5)})
        write(tmp_path / write.__name__, 3, {step: -step for step in range(3, 6)})
    ours, theirs = tmp_path / "write_ours", tmp_path / "write_torchs"
    assert points(ours) == points(theirs) == [(0, 0), (1, 1), (2, 2), (3, -3), (4, -4), (5, -5)]
    shapes = [
        {re.sub(r"\d+", "N", file.name) for file in root.iterdir()} for root in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]


def full_from(monkeypatch, *failing):
    """Let the saves of these numbers, from 0 on, fail like torch.save on a full disk."""
    real, numbers = torch.save, iter(range(99))

    def save(content, file):
        if next(numbers) in failing:
            file.write(b"half of it")
            raise RuntimeError("PytorchStreamWriter failed writing file data/3")
        real(content, file)

    monkeypatch.setattr(torch, "save", save)


def test_a_checkpoint_that_cannot_be_saved_is_missed_and_the_next_one_is_kept(
    tmp_path, monkeypatch, caplog
):
    full_from(monkeypatch, 1)
    with caplog.at_level(logging.WARNING, "fastimae"):
        assert trainer(tmp_path, epochs=3, save_freq=1, checkpoint_hist=1).run()
    (line,) = caplog.messages
    assert f"cannot save {tmp_path / LAST}" in line and "the run continues" in line
    assert load_checkpoint(tmp_path / LAST)["epoch"] == 2
    assert {path.name for path in tmp_path.glob("*.pth*")} == {LAST, "checkpoint-2.pth"}


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "stopped by a signal"])
def test_the_last_save_of_a_run_must_not_fail(tmp_path, monkeypatch, stopped):
    run = trainer(tmp_path, epochs=2, save_steps=4)
    full_from(monkeypatch, 2 if stopped else 3)
    if stopped:
        real = run._train_step
        run._train_step = lambda batches: (real(batches), run.epoch and run._ask_to_stop())
    with pytest.raises(CheckpointError, match=f"cannot save {tmp_path / LAST}.*untouched"):
        run.run()
    before = load_checkpoint(tmp_path / LAST)
    assert (before["epoch"], before["step"]) == ((0, 6) if stopped else (1, 4))
    assert not list(tmp_path.glob("*.partial"))


FILLS_UP = """
import sys
from pathlib import Path
from toy_trainer import trainer
from fastimae.engine.checkpoint import LAST, CheckpointError, load_checkpoint

disk = Path(sys.argv[1])
run = trainer(disk, epochs=5, log_steps=1, save_freq=1)
real = run._finish_epoch

def finish():
    if run.epoch in (1, 4):
        with (disk / "others").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1000)):
                    pass
            except OSError:
                pass
    if run.epoch == 3:
        (disk / "others").unlink()
    real()

run._finish_epoch = finish
try:
    run.run()
except CheckpointError as error:
    print(error)
print(load_checkpoint(disk / LAST)["epoch"])
(disk / "others").unlink()
print((disk / "log.txt").read_text().count("\\n"))
for name in ("checkpoint-0.pth", "checkpoint-3.pth"):
    load_checkpoint(disk / name)
"""


def test_a_run_survives_a_real_full_disk(tmp_path):
    printed = run_on_small_disk(FILLS_UP, tmp_path / "disk", "400k")
    error, epoch, lines = printed.splitlines()
    assert f"cannot save {tmp_path}/disk/{LAST}" in error and "No space left" in error
    assert epoch == "3" and int(lines) >= 4, printed  # the last may fit into its page
