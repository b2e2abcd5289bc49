"""One writer at a time: the second gets the name of the first, and no lock outlives its holder."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from fastimae.folders import FolderError
from fastimae.locks import LOCK, InUse, check_free, file_to_write, folder_to_write

HOLDS = """
import os, sys, time
from pathlib import Path
from fastimae.locks import folder_to_write
with folder_to_write(Path(sys.argv[1])):
    if sys.argv[2] == "with a worker" and not os.fork():
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["alone", "with a worker"])
def holder(request, tmp_path):
    """Start a process that holds tmp_path, alone or with a forked worker that outlives it."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path), request.param]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_the_second_is_told_who_the_first_is_and_takes_over_when_it_is_killed(holder, tmp_path):
    with pytest.raises(InUse) as refused, folder_to_write(tmp_path):
        pytest.fail("it was let in")
    message = str(refused.value)
    for words in (str(tmp_path), f"process {holder.pid}", socket.gethostname(), "--output_dir"):
        assert words in message
    since = re.search(r"since (\S+ \S+ \S+)\)", message)[1]
    assert 0 <= time.time() - time.mktime(time.strptime(since, "%Y-%m-%d %H:%M:%S %z")) < 100
    with pytest.raises(InUse):
        check_free(tmp_path)
    holder.kill()
    holder.wait(20)
    assert (tmp_path / LOCK).exists()  # its holder could not remove it
    deadline = time.monotonic() + 20  # a worker that was just forked must still close it
    while time.monotonic() < deadline:
        with contextlib.suppress(InUse):
            check_free(tmp_path)
            break
        time.sleep(0.05)
    with folder_to_write(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_files_beside_each_other_are_held_apart(tmp_path):
    a, b = tmp_path / "new" / "a", tmp_path / "new" / "b"
    with file_to_write(a), file_to_write(b):
        with pytest.raises(InUse, match="choose another OUT"), file_to_write(a):
            pass
        a.write_text("kept")
    assert list(a.parent.iterdir()) == [a]


def test_an_error_lets_go(tmp_path):
    with pytest.raises(ZeroDivisionError), folder_to_write(tmp_path):
        raise ZeroDivisionError
    with folder_to_write(tmp_path):
        pass


def test_never_two_at_once_however_they_race(tmp_path):
    """The file is removed and recreated all the time, which is where locks on files go wrong."""
    inside, most, entered, failures = [0], [0], [0] * 4, []

    def race(number):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                with file_to_write(tmp_path / "x"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    inside[0] -= 1
                    entered[number] += 1
            except InUse:
                pass
            except Exception as error:
                failures.append(error)

    racers = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert failures == [] and most == [1] and sum(entered) > 50


def test_a_file_system_without_locks_is_mentioned(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    caplog.set_level("INFO", "fastimae")
    with folder_to_write(tmp_path):
        assert list(tmp_path.iterdir()) == []
    assert "no lock (No locks available)" in caplog.text and str(tmp_path) in caplog.text


def test_a_folder_that_is_moved_or_removed_meanwhile(tmp_path):
    with folder_to_write(tmp_path / "a"):
        (tmp_path / "a").rename(tmp_path / "b")
        with folder_to_write(tmp_path / "a"):
            assert (tmp_path / "a" / LOCK).exists()
        with pytest.raises(InUse), folder_to_write(tmp_path / "b"):
            pass
    with folder_to_write(tmp_path / "b"):
        pass


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / LOCK).mkdir()
    with pytest.raises(FolderError, match="--output_dir"), folder_to_write(tmp_path):
        pass


def test_a_folder_made_in_vain_is_removed_and_no_other(tmp_path):
    with contextlib.suppress(RuntimeError), folder_to_write(tmp_path / "new"):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    for name in ("there", "used"):
        (tmp_path / "there").mkdir(exist_ok=True)
        with folder_to_write(tmp_path / name):
            if name == "used":
                (tmp_path / name / "file").touch()
        assert (tmp_path / name).exists()
