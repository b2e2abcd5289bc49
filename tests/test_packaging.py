"""What the sdist and the wheel hold beside modules: a file that is left out breaks an installation
and no checkout."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("fastimae", "kernels", "loaders")


def setup(folder, *command):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *command],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_wheel_made_of_the_sdist_has_the_tables_of_attention(tmp_path):
    pytest.importorskip("setuptools")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in FILES:
        shutil.copy(ROOT / name, checkout)
    setup(checkout, "sdist", "-d", tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "sdist", filter="data")
    (sources,) = (tmp_path / "sdist").iterdir()
    setup(sources, "build_py", "--build-lib", tmp_path / "wheel")  # a wheel holds this
    tables = {path.name: path.read_bytes() for path in (ROOT / "kernels").glob("*.json")}
    packed = (tmp_path / "wheel/fastimae/kernels").glob("*.json")
    assert tables
    assert {path.name: path.read_bytes() for path in packed} == tables
