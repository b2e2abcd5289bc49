"""The kit of `benchmarks/gpu_day.sh` for a GPU without a network: `python -m benchmarks.gpu_kit`.

Gathers in one folder, which git ignores: wheels of what such a machine lacks (for the Python there:
--python), the decode engine, images as .beton files, and the commit. Make it
after the last change, as results carry its commit. Prints its size.
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

from benchmarks.gpu_day.kit import BETON, CIFAR, CIFAR_VAL, COMMIT, write_commit
from benchmarks.harness import ROOT
from benchmarks.pictures import COUNT
from fastimae.arguments import UsageError, command
from fastimae.flags import OnceParser
from fastimae.loaders.convert.run import ConvertOptions, convert
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.gpu_kit"
WHEELS = ("tyro", "docstring-parser", "typeguard")
"""Packages that FastIMAE needs and PyTorch's images lack; all are pure Python."""
CIFAR_COUNT, CIFAR_VAL_COUNT = 10_000, 2000
LARGEST_SIDE, PAGE = 500, 1 << 20
SIZE_GOAL = 64 << 20
"""Most bytes, without DALI: the kit is copied with the repository."""


@command(PROG)
@closed_early_is_fine()
def main(argv: Sequence[str]) -> int:
    """Return 0 if everything requested was gathered, else 2, with a line that says why."""
    parser = OnceParser(prog=PROG, description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / ".gpu",
        help="folder of the kit; an older kit is replaced",
    )
    parser.add_argument("--python", default="3.12", help="version on the machine with the GPU")
    parser.add_argument("--wheels", type=Path, help="take wheels from this folder, not from PyPI")
    parser.add_argument("--images", type=Path, help=f"folder of images; {COUNT} of them are packed")
    parser.add_argument(
        "--cifar", type=Path, help="CIFAR-10's training images as folders, for small data"
    )
    parser.add_argument("--cifar_val", type=Path, help="its test images, for run 4's tables")
    parser.add_argument(
        "--cifar_images", type=int, default=CIFAR_COUNT, help="training images to pack; all: 50000"
    )
    parser.add_argument("--dali", type=Path, nargs="*", default=(), help="DALI, packed, for run 3")
    options = parser.parse_args(argv)
    if odd := [pack for pack in options.dali if pack.suffix not in (".whl", ".xz")]:
        raise UsageError(f"--dali {odd[0]}: wheels, or a .tar.xz of a site-packages folder")
    make_empty(options.out)
    gather_wheels(options.out / "wheels", options.python, options.wheels)
    build_engine(options.out / "native")
    if options.images:
        to_beton(options.images, options.out / BETON, COUNT, reencode=True)
    if options.cifar:
        to_beton(options.cifar, options.out / CIFAR, options.cifar_images)
    if options.cifar_val:
        to_beton(options.cifar_val, options.out / CIFAR_VAL, CIFAR_VAL_COUNT)
    for pack in options.dali:
        wheel = pack.suffix == ".whl"
        copy(pack, options.out / ("wheels" if wheel else "dali"))
    print(sizes_of(options.out))
    return 0


def make_empty(kit: Path) -> None:
    """Replace an earlier kit with an empty one. Raises UsageError if something else is there."""
    if kit.exists() and any(kit.iterdir()) and not (kit / COMMIT).exists():
        raise UsageError(f"--out {kit} is not empty, and not a kit: name another folder")
    shutil.rmtree(kit, ignore_errors=True)
    kit.mkdir(parents=True)
    write_commit(kit)


def gather_wheels(folder: Path, python: str, source: Path | None) -> None:
    """Gather wheels for a version of Python, from `source` or with pip."""
    if source:
        wheels = sorted(source.glob("*.whl"))
        if not wheels:
            raise UsageError(f"--wheels {source}: it has no wheels")
        for wheel in wheels:
            copy(wheel, folder)
        return
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--dest", str(folder)]
    if subprocess.run([*command, *WHEELS], check=False).returncode:
        raise UsageError("pip cannot get the wheels: --wheels names a folder that has them")


def build_engine(folder: Path) -> None:
    """Build the engine, and copy libjpeg beside it, where the engine looks for it first."""
    folder.mkdir(parents=True)
    settings = {"FASTIMAE_ENGINE": "portable", "LDFLAGS": "-Wl,-rpath,$ORIGIN"}
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--force"]
        command += ["--build-lib", scratch, "--build-temp", f"{scratch}/objects"]
        if subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=False).returncode:
            raise UsageError("the decode engine was not built: fastimae-doctor says what it needs")
        (built,) = Path(scratch).rglob("_native.so")
        engine = Path(shutil.copy2(built, folder))
    needs = subprocess.run(["ldd", engine], capture_output=True, text=True, check=True).stdout
    libjpeg = next(line.split()[2] for line in needs.splitlines() if "libjpeg" in line)
    shutil.copy2(libjpeg, folder)
    ctypes.CDLL(str(engine.resolve()))  # check that it loads


def to_beton(source: Path, target: Path, count: int, *, reencode: bool = False) -> None:
    """Convert `count` images of a folder, in a small size."""
    options = ConvertOptions(
        src=str(source), out=target, limit=count, max_resolution=LARGEST_SIDE, reencode=reencode,
        page_size=PAGE,
    )  # fmt: skip
    convert(options)


def copy(file: Path, folder: Path) -> None:
    """Copy a file into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(file, folder)


def sizes_of(kit: Path) -> str:
    """List the megabytes of each part, and of all."""
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
