"""Facts about a machine, and its peak rates: `python -m benchmarks.gpu_day.machine`."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import torch

from fastimae.cpus import usable_cores
from fastimae.flags import OnceParser
from fastimae.loaders import native_library
from fastimae.streams import closed_early_is_fine

TOOLS = ("git", "gcc", "g++", "nvcc", "nvidia-smi", "ncu", "compute-sanitizer")
PACKAGES = ("tyro", "timm", "torchvision", "nvidia.dali", "ffcv", "torchao")


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Print a line for each fact as soon as it is known, or the error it raised."""
    parser = OnceParser(prog="python -m benchmarks.gpu_day.machine")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="small products and copies")
    options = parser.parse_args(argv)
    failed = 0
    for name, find in facts(torch.device(options.device), options.smoke).items():
        try:
            print(f"{name}: {find()}", flush=True)
        except Exception as error:
            failed += 1
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
    return int(failed > 0)


def facts(device: torch.device, smoke: bool) -> dict[str, Callable[[], object]]:
    """Return the functions that find the facts, by name; the peak rates come last."""
    from benchmarks.gemm import measure_square
    from benchmarks.kernels.measure import COPY_BYTES, measure_copy

    side = 256 if smoke else None
    return {
        "cores": usable_cores,
        "engine": _engine,
        "tools": lambda: {name: shutil.which(name) is not None for name in TOOLS},
        "packages": lambda: {name: _is_installed(name) for name in PACKAGES},
        "nvJPEG": lambda: _libraries("libnvjpeg"),
        "copy, TB/s": lambda: measure_copy(device, 2**22 if smoke else COPY_BYTES) / 1e12,
        "products, TFLOP/s": lambda: {
            name: rate / 1e12 for name, rate in measure_square(device, side).items()
        },
    }


def _engine() -> str:
    library = native_library.load()
    return library.description() if library else native_library.why_missing()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # its parent package is missing, too
        return False


def _libraries(name: str) -> list[str]:
    """List shared libraries of NVIDIA's wheels, in all folders where Python finds packages."""
    folders = [Path(folder) for folder in (*sys.path, sysconfig.get_path("purelib")) if folder]
    found = [path for folder in folders for path in folder.glob(f"nvidia/**/{name}*.so*")]
    return sorted({path.name for path in found})


if __name__ == "__main__":
    sys.exit(main())
