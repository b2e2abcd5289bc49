"""Runs of several processes, made once for all tests that look at them."""

import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Ranks:
    """What `ranks.py`, or another script, left in a folder."""

    folder: Path
    report: dict

    def log(self, name: str) -> list[dict]:
        """Lines of a run's log.txt."""
        return [json.loads(line) for line in (self.folder / name / "log.txt").open()]

    def output(self, name: str, rank: int) -> str:
        """What a process printed."""
        return (self.folder / f"{name}-{rank}.txt").read_text()

    def inside(self, rank: int) -> dict:
        """What `inside` saw in a process."""
        return json.loads((self.folder / f"inside-{rank}.json").read_text())


@pytest.fixture(scope="session")
def ranks(tmp_path_factory):
    return made_once(tmp_path_factory, "ranks")


@pytest.fixture(scope="session")
def stopped_runs(tmp_path_factory):
    return made_once(tmp_path_factory, "stopped_runs")


def made_once(tmp_path_factory, script: str) -> Ranks:
    """What a script beside this file leaves, whichever test process asks first."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # which all test processes share
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
        command, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
