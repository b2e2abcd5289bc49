"""What `benchmarks/gpu_day.sh` brings to a GPU without a network: `python -m benchmarks.gpu_kit`.

Gathers, in one folder that git ignores: wheels of what such a machine lacks, the decode engine
(its name has to suit the Python there: --python), images as .beton files, and the commit. Make it
last, after the last change: results carry its commit. Prints what it weighs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_day.commit import FILE, write_commit
from benchmarks.gpu_day.images import BETON, CIFAR, COUNT
from benchmarks.harness import ROOT
from fastimae.arguments import UsageError, command
from fastimae.flags import OnceParser
from fastimae.loaders.convert import ConvertOptions, convert

PROG = "python -m benchmarks.gpu_kit"
WHEELS = ("tyro", "docstring-parser", "typeguard")
"""What FastIMAE needs and an image made for PyTorch does not have: pure Python, all of it."""
CIFAR_COUNT = 2000
LARGEST_SIDE, PAGE = 500, 1 << 20
SIZE_GOAL = 20e6
"""Bytes, without DALI: it has to travel beside the repository."""


@command(PROG)
def main(argv: Sequence[str]) -> int:
    """0 if everything asked for is there; 2 where it cannot be had, with why."""
    parser = OnceParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu", help="the kit; made anew")
    parser.add_argument("--python", default="3.12", help="the version on the machine with the GPU")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels, instead of PyPI")
    parser.add_argument("--images", type=Path, help=f"a folder of images, to bring {COUNT} of them")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as folders, for the loss curve")
    parser.add_argument("--dali", type=Path, nargs="*", default=(), help="DALI, packed, for run 3")
    options = parser.parse_args(argv)
    if odd := [pack for pack in options.dali if pack.suffix not in (".whl", ".xz")]:
        raise UsageError(f"--dali {odd[0]}: wheels, or a .tar.xz of a site-packages folder")
    make_empty(options.out)
    gather_wheels(options.out / "wheels", options.python, options.wheels)
    build_engine(options.out / "native", options.python)
    if options.images:
        to_beton(options.images, options.out / BETON, COUNT, reencode=True)
    if options.cifar:
        to_beton(options.cifar, options.out / CIFAR, CIFAR_COUNT)
    for pack in options.dali:
        wheel = pack.suffix == ".whl"
        copy(pack, options.out / ("wheels" if wheel else "dali"))
    print(weights(options.out))
    return 0


def make_empty(kit: Path) -> None:
    """An empty folder in place of an earlier kit; UsageError where something else is there."""
    if kit.exists() and any(kit.iterdir()) and not (kit / FILE).exists():
        raise UsageError(f"--out {kit} is not empty, and no kit: name another folder")
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir(parents=True)
    write_commit(kit)


def gather_wheels(folder: Path, python: str, source: Path | None) -> None:
    """Wheels for that version of Python, from `source` or from where pip finds them."""
    if source:
        wheels = sorted(source.glob("*.whl"))
        if not wheels:
            raise UsageError(f"--wheels {source}: there is no wheel in it")
        for wheel in wheels:
            copy(wheel, folder)
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(folder)]
    if subprocess.run([*command, *WHEELS], check=False).returncode:
        raise UsageError("pip cannot get the wheels: --wheels names a folder that has them")


def build_engine(folder: Path, python: str) -> None:
    """The engine and its libjpeg, which finds each other wherever the folder is copied to."""
    folder.mkdir(parents=True)
    flags = "-static-libstdc++ -static-libgcc -Wl,-rpath,$ORIGIN -s"
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--force"]
        command += ["--build-lib", scratch, "--build-temp", f"{scratch}/objects"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"LDFLAGS": flags}, check=True)
        built = next(Path(scratch).rglob("_native*.so"), None)
        if built is None:  # setup.py takes the engine for optional, and has said why
            raise UsageError("the decode engine was not built: fastimae-doctor says what it needs")
        tag = python.replace(".", "")
        engine = folder / f"_native.cpython-{tag}-x86_64-linux-gnu.so"
        shutil.copy2(built, engine)
    needs = subprocess.run(["ldd", engine], capture_output=True, text=True, check=True).stdout
    libjpeg = next(line.split()[2] for line in needs.splitlines() if "libjpeg" in line)
    shutil.copy2(libjpeg, folder)
    ctypes.CDLL(str(engine.resolve()))  # it can be loaded


def to_beton(source: Path, target: Path, count: int, *, reencode: bool = False) -> None:
    """`count` images of a folder, none larger than it has to be."""
    options = ConvertOptions(
        src=str(source), out=target, limit=count, max_resolution=LARGEST_SIDE, reencode=reencode,
        page_size=PAGE,
    )  # fmt: skip
    convert(options)


def copy(file: Path, folder: Path) -> None:
    """Copy a file into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, folder)


def weights(kit: Path) -> str:
    """Megabytes of each part, and of all."""
    files = [file for file in kit.rglob("*") if file.is_file()]
    sizes: dict[str, int] = {}
    for file in files:
        part = file.relative_to(kit).parts[0]
        sizes[part] = sizes.get(part, 0) + file.stat().st_size
    lines = [f"{size / 1e6:8.2f} MB  {part}" for part, size in sorted(sizes.items())]
    carried = sum(sizes.values()) - sizes.get("dali", 0)
    over = f", more than the {SIZE_GOAL / 1e6:.0f} it should be" if carried > SIZE_GOAL else ""
    return "\n".join([*lines, f"{sum(sizes.values()) / 1e6:8.2f} MB  {kit}{over}"])


if __name__ == "__main__":
    sys.exit(main())
