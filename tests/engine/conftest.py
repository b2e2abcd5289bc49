"""Fixtures of runs: with several processes, made once for all tests, or tiny ones."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_images

from fastimae import cli
from fastimae.pictures import reconstruction

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {"ranks", "stopped_runs", "averaging_ranks"}
"""Fixtures that run the script of their name."""
LIMIT = 400
"""Seconds for a script, which trains all objectives: a minute or less on two idle cores."""


def pytest_collection_modifyitems(items):
    for item in items:
        if SCRIPTS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(LIMIT + 20))


@dataclasses.dataclass
class Ranks:
    """The files that `ranks.py`, or another script, has written to a folder."""

    folder: Path
    report: dict

    def log(self, name: str) -> list[dict]:
        """Return the lines of a run's log.txt."""
        return [json.loads(line) for line in (self.folder / name / "log.txt").open()]

    def output(self, name: str, rank: int) -> str:
        """Return what a process printed."""
        return (self.folder / f"{name}-{rank}.txt").read_text()

    def inside(self, rank: int) -> dict:
        """Return what `inside` recorded in a process."""
        return json.loads((self.folder / f"inside-{rank}.json").read_text())


TINY_IMAE = (
    "--synthetic --synthetic_samples 40 --num_workers 0 --device cpu --precision fp32 --seed 3 "
    "--objective imae --mix_group 2 --model mae_vit_nano_patch16 --input_size 32 --batch_size 4 "
    "--lr 1e-2 --warmup_epochs 0 --vis_freq 1 --log_steps 5"
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function that trains a tiny i-MAE in tmp_path, 10 steps an epoch, in no time."""
    monkeypatch.setattr(reconstruction, "draw_grid", toy_images.save_gray)

    def run(*flags: str) -> None:
        assert cli.train([*TINY_IMAE.split(), "--output_dir", str(tmp_path), *flags]) == 0

    return run


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    return made_once(tmp_path_factory, "ranks")


@pytest.fixture(scope="session")
def stopped_runs(tmp_path_factory):
    return made_once(tmp_path_factory, "stopped_runs")


@pytest.fixture(scope="session")
def averaging_ranks(tmp_path_factory):
    return made_once(tmp_path_factory, "averaging_ranks")


def made_once(tmp_path_factory, script: str) -> Ranks:
    """Run a script beside this file once for all test processes; return its files."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # shared by all test processes
    folder, report = root / script, root / script / "report.json"
    with (root / f"{script}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not report.exists():
            folder.mkdir(exist_ok=True)
            start(script, folder)
    return Ranks(folder, json.loads(report.read_text()))


def start(script: str, folder: Path) -> None:
    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
