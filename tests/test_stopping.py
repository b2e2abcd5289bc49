"""A signal to all processes of a run, as schedulers, `timeout` and terminals send it."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import toy_images

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint

QUICK = "--device cpu --precision fp32 --num_workers 2 --batch_size 12 --warmup_epochs 1"
COMMANDS = {
    "train": f"--data_path {{data}} --model mae_vit_nano_patch16 --input_size 32 {QUICK}",
    "evaluate": f"finetune --checkpoint {{mae}} --data_path {{data}} {QUICK}",
}
SMALL = 'mount -t tmpfs -o size=128k tmpfs /dev/shm && exec "$@"'
"""Runs a command with space in /dev/shm for locks but not for batches, if the system allows it."""


def with_small_shm():
    """Return what to put before a command."""
    for flags in ("-m", "-Urm"):
        before = ["unshare", flags, "sh", "-c", SMALL, "sh"]
        if shutil.which("unshare") and not subprocess.call([*before, "true"], stderr=-3):
            return before
    return []


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    toy_images.save_mae(root / "mae.pth")
    for part, count in (("train", 40), ("val", 2)):
        toy_images.save_colours(root / "data" / part, count)
    return root


@pytest.fixture
def start():
    """Return a function that starts a command, which is killed if the test fails."""
    started = []

    def start(name, arguments, *, before=()):
        code = f"import sys; from fastimae import cli; sys.exit(cli.{name}(sys.argv[1:]))"
        started.append(subprocess.Popen(
            [*before, sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        ))  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(path, process):
    deadline = time.monotonic() + 100
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing is done"
        time.sleep(0.01)


def signalled(process, number):
    """Signal all processes of a command; return its last output. None of them may be left."""
    workers = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=100)[0]
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=10)[1], output
    return output


@pytest.mark.parametrize(
    ("name", "number"), [("train", signal.SIGINT), ("evaluate", signal.SIGTERM)]
)
def test_a_run_with_workers_saves_and_exits_0(start, toy, tmp_path, name, number):
    """And needs no /dev/shm for its batches."""
    command = COMMANDS[name].format(data=toy / "data", mae=toy / "mae.pth").split()
    command += ["--output_dir", tmp_path, "--save_steps", 1]
    process = start(name, [*command, "--epochs", 1000], before=with_small_shm())
    last = tmp_path / "checkpoint-last.pth"
    wait_for(last, process)
    output = signalled(process, number)
    assert process.returncode == 0, output
    assert "stopped and saved" in output and "Traceback" not in output
    content = load_checkpoint(last)
    assert (content["epoch"], content["step"]) > (0, 0)


def test_sigterm_that_is_repeated_while_the_process_ends_changes_nothing(start, tmp_path):
    """Launchers repeat it; leaving Python takes seconds after all is saved."""
    model = "--synthetic --model mae_vit_nano_patch16 --input_size 32 --num_workers 0"
    command = f"{model} {QUICK.replace('--num_workers 2', '')} --save_steps 1 --output_dir"
    process = start("train", [*command.split(), tmp_path])
    wait_for(tmp_path / "checkpoint-last.pth", process)
    process.send_signal(signal.SIGTERM)
    assert any("stopped and saved" in line for line in process.stdout)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.returncode == 0


def test_a_conversion_goes_on_where_it_was_stopped(start, tmp_path):
    """The file equals that of an uninterrupted conversion."""
    folder = toy_images.save_colours(tmp_path / "data", 150, size=100)
    out, straight = tmp_path / "out.beton", tmp_path / "straight.beton"
    process = start("convert", [folder, out, "--workers", 2])
    wait_for(tmp_path / "out.beton.part", process)
    output = signalled(process, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "the same command resumes" in output and not out.exists()
    assert cli.convert([str(folder), str(out), "--workers", "1"]) == 0
    assert cli.convert([str(folder), str(straight), "--workers", "1"]) == 0
    assert out.read_bytes() == straight.read_bytes()
