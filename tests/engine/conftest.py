"""Runs of several processes, made once for all tests that look at them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Ranks:
    """What `ranks.py` left in a folder."""

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
    folder = tmp_path_factory.mktemp("ranks")
    script = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        script, env=environment, capture_output=True, text=True, timeout=170, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return Ranks(folder, json.loads((folder / "report.json").read_text()))
