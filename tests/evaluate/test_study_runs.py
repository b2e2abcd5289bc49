"""Runs of a study: each once, resumed after an interruption, and never another's."""

import json
import os
import signal
import sys
import threading
import time

import pytest
from tiny import save_run, tiny_model

from fastimae.evaluate.studies import runs
from fastimae.evaluate.studies.runs import StudyRun, run_once, state
from fastimae.settings import ConfigError


@pytest.fixture
def program(monkeypatch):
    """Function (code) that replaces what fastimae-train runs by `code`."""

    def set_code(code):
        monkeypatch.setitem(runs.PROGRAMS, "fastimae-train", ("-c", code))

    return set_code


WRITES = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); open(p / 'tries', 'a').write('x')\n"
RESULT = "(p / 'results.json').write_text('{}')\n"
CHECKPOINT = "(p / 'checkpoint-last.pth').write_text('')\n"


def make_run(folder, *flags, **more):
    return StudyRun("a run", folder, ["fastimae-train", str(folder), *flags],
                    lambda: (folder / "results.json").is_file(), **more)  # fmt: skip


def test_a_run_runs_once(tmp_path, program):
    program(WRITES + RESULT)
    assert state(make_run(tmp_path)) == "missing"
    assert run_once(make_run(tmp_path)) and run_once(make_run(tmp_path))
    assert run_once(make_run(tmp_path, "--num_workers", "3"))  # changes no result
    assert state(make_run(tmp_path)) == "done"
    assert (tmp_path / "tries").read_text() == "x"
    with pytest.raises(ConfigError, match="another --output_dir"):
        run_once(make_run(tmp_path, "--epochs", "3"))


def test_a_run_that_failed_or_was_stopped_is_run_again(tmp_path, program):
    program(WRITES + "sys.exit(3)")
    with pytest.raises(ConfigError, match="exit status 3"):
        run_once(make_run(tmp_path))
    program(WRITES + CHECKPOINT)
    assert run_once(make_run(tmp_path, "--epochs", "3")) is False  # nothing was kept: other flags
    assert state(make_run(tmp_path, "--epochs", "3")) == "begun"
    program(WRITES + RESULT)
    with pytest.raises(ConfigError, match="belongs to another command"):
        run_once(make_run(tmp_path))
    assert run_once(make_run(tmp_path, "--epochs", "3"))
    assert (tmp_path / "tries").read_text() == "xxx"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_a_signal_ended_was_stopped_and_has_not_failed(tmp_path, program, number):
    program(WRITES + f"import os; os.kill(os.getpid(), {number})\nimport time; time.sleep(60)")
    assert run_once(make_run(tmp_path)) is False


def test_a_run_that_was_killed_has_failed(tmp_path, program):
    """By the kernel, for its memory: to go on with the next model would hide it."""
    program(WRITES + CHECKPOINT + "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ConfigError, match="exit status -9"):
        run_once(make_run(tmp_path))
    program(WRITES + RESULT)
    assert run_once(make_run(tmp_path))


SAVES_WHEN_TOLD = (
    "import pathlib, signal, sys, time; p = pathlib.Path(sys.argv[1])\n"
    "def save(*_): (p / 'saved').write_text('x'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save); (p / 'ready').write_text('x'); time.sleep(60)"
)


def test_sigterm_lets_the_command_save(tmp_path, program):
    program(SAVES_WHEN_TOLD)
    before = signal.getsignal(signal.SIGTERM)

    def tell_us():
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell_us, daemon=True).start()
    assert run_once(make_run(tmp_path)) is False
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_that_the_study_did_not_make_is_not_resumed(tmp_path, program):
    program(WRITES + RESULT)
    save_run(tmp_path, tiny_model())
    with pytest.raises(ConfigError, match="another command"):
        run_once(make_run(tmp_path))
    assert not (tmp_path / "tries").exists()


def test_a_launcher_starts_the_command_and_belongs_to_it(tmp_path, program):
    program(WRITES + "(p / 'as').write_text(repr(sys.argv[1:]))\n" + RESULT)
    launcher = ("env", "-u", "HOME")
    assert run_once(make_run(tmp_path, "--epochs", "3", launcher=launcher))
    assert (tmp_path / "as").read_text() == repr([str(tmp_path), "--epochs", "3"])
    noted = json.loads((tmp_path / "command.json").read_text())
    assert noted == [*launcher, "fastimae-train", str(tmp_path), "--epochs", "3"]
    with pytest.raises(ConfigError, match="another command"):
        run_once(make_run(tmp_path, "--epochs", "3"))


def test_the_program_is_that_of_this_python(tmp_path, program):
    program(f"import sys, pathlib; p = pathlib.Path(sys.argv[1])\n{RESULT}"
            f"assert sys.executable == {sys.executable!r}")  # fmt: skip
    assert run_once(make_run(tmp_path))
