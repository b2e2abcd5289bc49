"""The kit for a machine with a GPU: complete, identified by its commit, and installed there."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from benchmarks import gpu_kit, pictures
from benchmarks.gpu_day import kit as kits
from benchmarks.harness import ROOT
from fastimae.arguments import UsageError


def test_a_kit_is_made_anew_and_nothing_else_is_removed(tmp_path):
    kit, mine = tmp_path / ".gpu", tmp_path / "mine"
    gpu_kit.make_empty(kit)
    (kit / "old.beton").write_bytes(b"old")
    gpu_kit.make_empty(kit)
    assert [file.name for file in kit.iterdir()] == [kits.COMMIT]
    mine.mkdir()
    (mine / "thesis.tex").write_text("...")
    with pytest.raises(UsageError, match="is not empty, and not a kit"):
        gpu_kit.make_empty(mine)
    assert (mine / "thesis.tex").exists()


def test_the_size_limit_leaves_dali_out(tmp_path):
    for name, size in {"native/a.so": 1_500_000, "images.beton": 2_000_000, "dali/d": 60e6}.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(int(size)))
    lines = gpu_kit.sizes_of(tmp_path).splitlines()
    assert lines[0].split() == ["60.00", "MB", "dali"] and "63.50 MB" in lines[-1]
    assert "more than" not in lines[-1]
    (tmp_path / "large").write_bytes(bytes(64_000_000))
    assert "more than the 67 it should be" in gpu_kit.sizes_of(tmp_path)


def test_an_image_folder_that_is_not_there_is_one_line(tmp_path, monkeypatch, capsys):
    for name in ("gather_wheels", "build_engine"):
        monkeypatch.setattr(gpu_kit, name, lambda *_: None)
    flags = ["--out", str(tmp_path / "kit"), "--images", str(tmp_path / "none")]
    assert gpu_kit.main(flags) == 2
    assert "there is no file or folder" in capsys.readouterr().err


def test_the_commit_is_the_kits_where_there_is_no_git(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTIMAE_COMMIT", raising=False)
    (tmp_path / kits.COMMIT).write_text(f"abc1234 {kits.digest()}\n")
    assert kits.measured_commit(tmp_path) != "abc1234" or not (ROOT / ".git").exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert kits.measured_commit(tmp_path) == "abc1234"
    (tmp_path / kits.COMMIT).write_text("abc1234 0123456789abcdef\n")
    assert kits.measured_commit(tmp_path) == "abc1234-dirty"
    assert kits.measured_commit(tmp_path / "no kit") == "unknown"


def test_the_digest_sees_every_change(tmp_path):
    file = tmp_path / "kernels/a.py"
    file.parent.mkdir()
    seen = set()
    for text in ("x = 1\n", "x = 2\n"):
        file.write_text(text)
        seen.add(kits.digest(tmp_path))
    seen.add(kits.digest(tmp_path / "kernels"))
    file.rename(file.with_name("b.py"))
    seen.add(kits.digest(tmp_path))
    assert len(seen) == 4


def test_made_up_pictures_replace_missing_images(tmp_path, capsys):
    found = kits.find_images(tmp_path / "no kit", tmp_path)
    assert "using made-up pictures" in capsys.readouterr().err
    assert found["beton"].name == "made_up_pictures.beton" and found["cifar"] is None
    assert found["cifar_val"] is None
    drawn = {file.read_bytes() for file in (tmp_path / "pictures").rglob("*.jpg")}
    unpacked = [file.read_bytes() for file in found["images"].rglob("*.jpg")]
    assert set(unpacked) == drawn and len(unpacked) == pictures.COUNT
    assert len(list(found["images"].iterdir())) == pictures.CLASSES
    assert 30e3 < sum(map(len, unpacked)) / len(unpacked) < 120e3, "as heavy as ImageNet's"


@pytest.fixture
def tree(tmp_path):
    """Copy the sources without .git, with a kit that has a wheel."""
    for folder in ("fastimae", "kernels", "loaders", "benchmarks", "tests"):
        kind = shutil.ignore_patterns("__pycache__", "*.so", "results")
        shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, symlinks=True, ignore=kind)
    kit = tmp_path / "tree/.gpu"
    for folder in ("wheels", "native"):
        (kit / folder).mkdir(parents=True)
    with zipfile.ZipFile(kit / "wheels/torchao-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torchao/__init__.py", "")
    (kit / "native/_native.brought.so").write_bytes(b"")
    (kit / kits.COMMIT).write_text(f"abc1234 {kits.digest()}\n")
    return tmp_path / "tree"


def test_the_script_brings_what_the_machine_lacks_and_needs_no_git(tree, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "cp", "dirname", "mktemp", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tools), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", "benchmarks/gpu_day.sh", "1", "--only", "machine", "--smoke"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--out", str(tmp_path / "out")],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/gpu_day_1.json").read_text())
    assert report["commit"] == "abc1234"
    text = report["parts"]["machine"]["text"]
    assert "'git': False" in text and "'torchao': True" in text
    assert (tree / "loaders/_native.brought.so").exists()


def test_gpu_tests_can_be_collected_where_a_package_is_missing():
    """A missing package costs only the tests that need it."""
    files = sorted((ROOT / "tests/gpu").glob("test_*.py"))
    code = """
import pytest, runpy, sys
sys.modules["tyro"] = None
for file in sys.argv[1:]:
    try:
        runpy.run_path(file)
    except pytest.skip.Exception:
        print("skips itself:", file)
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skips itself") <= 1, "DALI's, where there is no DALI"
