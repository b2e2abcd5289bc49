"""Run a Python script with a small disk of its own, which fills up like any other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_on_small_disk(code: str, folder: Path, size: str, *arguments: object) -> str:
    """Run code with a tmpfs of `size` mounted at `folder`, for that process alone; return what it
    prints. Skips the test where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={size} none {folder} 2>/dev/null || exit 77"
    script = f'{mount}; exec "{sys.executable}" -c "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, code, folder, *arguments],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"no mounts of our own here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return done.stdout
