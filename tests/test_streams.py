"""Closed and full outputs: `| head` is no error, lost messages end no run, lost results are one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import save_run, tiny_model
from toy_images import save_gray

from fastimae import cli
from fastimae.demo import __main__ as demo
from fastimae.pictures import reconstruction
from fastimae.streams import closed_early_is_fine

FULL = Path("/dev/full")
TRAIN = (
    "--synthetic --synthetic_samples 16 --model mae_vit_nano_patch16 --input_size 32 "
    "--batch_size 8 --num_workers 0 --device cpu --epochs 1 --warmup_epochs 0 --output_dir"
)


def closed():
    """Return a text stream into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def run(command, **streams):
    return subprocess.run(
        [sys.executable, *command], timeout=120, check=False, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        "-m fastimae.cli --help",
        "-m fastimae.demo --help",
        "-m benchmarks.report --help",
        "-c from~fastimae.cli~import~evaluate;evaluate([])",
    ],
)
def test_a_reader_that_has_gone_is_no_error(command):
    with closed() as out:
        done = run([word.replace("~", " ") for word in command.split()], stdout=out)
    assert (done.returncode, done.stderr) == (0, "")


ALL = {
    "train": "--synthetic --print_config",
    "convert": "--help",
    "doctor": "",
    "bench": "--help",
    "evaluate": "knn --help",
    "export": "--help",
    "import_": "--help",
}


@pytest.mark.parametrize("name", ALL)
def test_every_command_ends_as_if_it_had_been_read(name, monkeypatch, capsys):
    def status():
        try:
            return getattr(cli, name)(ALL[name].split())
        except SystemExit as end:
            return end.code

    monkeypatch.setattr("fastimae.doctor.CHECKS", [demo_check] * 3)
    with closed() as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        unread = status()
    assert unread == status()
    assert "roken" not in capsys.readouterr().err


def demo_check():
    from fastimae.doctor import Check

    return Check(name="python", status="ok", found="3.11")


def test_work_is_finished_and_its_results_kept(tmp_path, monkeypatch):
    runs = [save_run(tmp_path / name, tiny_model()).parent for name in ("a", "b")]
    for run_dir in runs:
        (run_dir / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0}\n')
    with closed() as out:
        monkeypatch.setattr(sys, "stdout", out)
        page = tmp_path / "page"
        assert cli.evaluate(["compare", *map(str, runs), "--output_dir", str(page)]) == 0
    assert [path.name for path in page.iterdir()]


@pytest.mark.parametrize("messages", ["closed", pytest.param("full", marks=pytest.mark.skipif(
    not FULL.exists(), reason="needs /dev/full"))])  # fmt: skip
def test_lost_messages_do_not_end_a_run(tmp_path, monkeypatch, messages):
    monkeypatch.setattr(reconstruction, "draw_grid", save_gray)
    with closed() if messages == "closed" else FULL.open("w") as err:
        monkeypatch.setattr(sys, "stderr", err)
        assert cli.train([*TRAIN.split(), str(tmp_path / "run")]) == 0
        monkeypatch.undo()
        if messages == "full":
            os.dup2(2, err.fileno())  # closing it writes what is left
    assert (tmp_path / "run/log.txt").read_text().count("\n") == 1


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", ["--help", "--synthetic --print_config"])
def test_lost_results_are_an_error(flags, monkeypatch, capsys):
    with FULL.open("w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        assert cli.train(flags.split()) == 2
    error = "fastimae-train: error: [Errno 28] No space left on device\n"
    assert capsys.readouterr().err == error


def test_a_missing_stream_is_no_error():
    code = "import sys; sys.stdout = sys.stderr = None; from fastimae import cli\n"
    done = run(["-c", f"{code}sys.exit(cli.train(['--help']))"])
    assert done.returncode == 0


def test_all_that_was_read_arrives():
    code = "from fastimae.streams import closed_early_is_fine\nwith closed_early_is_fine():\n"
    done = run(["-c", f"{code}    print('a' * 100_000)\n    raise SystemExit(3)"])
    assert (len(done.stdout), done.returncode, done.stderr) == (100_001, 3, "")


def test_it_decorates_scripts(monkeypatch):
    @closed_early_is_fine()
    def main():
        print("lost", flush=True)
        return 7

    for _ in range(2):
        with closed() as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert main() == 7


def test_each_script_is_one_that_may_be_cut_short():
    root = Path(__file__).resolve().parent.parent
    scripts = [
        path for path in (root / "benchmarks").rglob("*.py")
        if "\ndef main(" in path.read_text() and '__name__ == "__main__"' in path.read_text()
    ]  # fmt: skip
    assert len(scripts) > 10
    for path in scripts:
        assert "@closed_early_is_fine()\ndef main(" in path.read_text(), path
    assert hasattr(demo.main, "__wrapped__")
