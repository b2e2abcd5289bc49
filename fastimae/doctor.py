"""`fastimae-doctor`: what is installed, what is missing, what that costs, and how to fix it.

Packages are imported one at a time, each in its own process: one that crashes is a row of the
report, not the end of it, and several at once would need more memory than some machines have.
A machine that is too slow, or short of memory, is no reason to call a package broken.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from fastimae.cpus import usable_cores
from fastimae.machine import (
    Ran,
    cpu_bf16,
    cpu_flags,
    missing_build_packages,
    release,
    run_python,
    version,
)

GIB = 2**30
TORCH_FACTS = """
import json, torch
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
bf16 = bool(gpus) and torch.cuda.is_bf16_supported()
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "bf16": bf16}))
"""
NATIVE_FACTS = """
from fastimae.loaders.native_library import load, why_missing
library = load()
if library is None:
    raise SystemExit(why_missing())
print(library.description())
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the report."""

    name: str
    status: Literal["ok", "missing", "broken", "other", "slow", "low"]
    """other: another project of that name. slow: not known, as the machine took too long. low:
    there is little of it, or too little memory to know."""
    found: str
    cost: str = ""
    """What does not work, or is slower, because of it."""
    fix: str = ""
    required: bool = False

    @property
    def fails(self) -> bool:
        """Whether something must be done: a required part is missing, or an installed one fails."""
        return self.status == "broken" or (self.required and self.status == "missing")


def doctor() -> int:
    """Run the checks, and print a row for each as soon as it is known.

    A row that is not ok says what that costs and how to fix it. Takes some seconds, as torch is
    imported several times. Returns 1 if a required part is missing or an installed one is broken.
    """
    failed = False
    for run in CHECKS:
        check = run()
        print(f"{check.status:8} {check.name:20} {check.found}", flush=True)
        if check.status != "ok":
            print(f"{'':32}costs: {check.cost}\n{'':32}fix:   {check.fix}", flush=True)
        failed |= check.fails
    return int(failed)


def check_python() -> Check:
    """Check for Python 3.11 or newer."""
    fine = sys.version_info >= (3, 11)
    return Check(
        name="python",
        status="ok" if fine else "broken",
        found=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        cost="FastIMAE does not run",
        fix="make setup PYTHON=python3.11",
        required=True,
    )


def check_torch() -> Check:
    """Check for torch 2.9 or newer: its CUDA build, the devices, and whether they have bf16."""
    ran = run_python(TORCH_FACTS)
    check = check_package("torch", required=True, cost="nothing runs", at_least=(2, 9), ran=ran)
    if check.status != "ok":
        return check
    device = json.loads(ran.output)
    build = f"CUDA {device['cuda']} build" if device["cuda"] else "CPU build"
    if device["gpus"]:
        found = f"{', '.join(device['gpus'])}; bf16 {'yes' if device['bf16'] else 'no'}"
    else:
        found = f"no GPU, runs on the CPU; bf16 {cpu_bf16(cpu_flags())}"
    return dataclasses.replace(check, found=f"{check.found}, {build}; {found}")


def check_pillow() -> Check:
    """Check for Pillow 11.3 or newer, the first that reads AVIF."""
    return check_package(
        "PIL.Image", distribution="pillow", required=True, at_least=(11, 3), cost="nothing runs"
    )


def check_requirements() -> Check:
    """Check that everything else that pyproject.toml requires on all platforms is installed."""
    row = {"name": "fastimae", "cost": "the commands that need it fail", "required": True}
    try:
        wanted = importlib.metadata.requires("fastimae") or []
    except importlib.metadata.PackageNotFoundError:
        found = "runs from a folder, not installed: no console scripts"
        return Check(status="missing", found=found, fix="pip install -e .", **row)
    names = [re.match(r"[\w.-]+", line).group() for line in wanted if ";" not in line]
    absent = [name for name in names if version(name) is None]
    if absent:
        found = f"{version('fastimae')} without {', '.join(absent)}"
        return Check(status="missing", found=found, fix=f"pip install {' '.join(absent)}", **row)
    return Check(status="ok", found=f"{version('fastimae')}, with all it requires", **row)


def check_native() -> Check:
    """Check for the compiled engine that decodes .beton files."""
    ran = run_python(NATIVE_FACTS)
    check = Check(
        name="native engine",
        status="broken" if ran.crashed else "missing" if ran.reason else "ok",
        found=ran.reason or ran.output.strip(),
        cost="--ffcv decodes with Pillow: the same pixels, several times slower",
        fix="a wheel has it; or sudo apt-get install g++ libjpeg-dev, and install FastIMAE again",
    )
    return unknown(check, ran) if ran.short_of else check


def check_ffcv() -> Check:
    """Check for the ffcv library and what its build needs. Its `__version__` is wrong."""
    packages = missing_build_packages()
    apt = f"sudo apt-get install {' '.join(packages)} && " if packages else ""
    return check_package(
        "ffcv",
        cost="no --decoder ffcv (.beton files work: FastIMAE reads and writes them itself)",
        fix=f"{apt}pip install ffcv",
    )


def check_apex() -> Check:
    """Check for NVIDIA apex, and for the other project that `pip install apex` installs."""
    spec = importlib.util.find_spec("apex")
    nothing = "nothing: FastIMAE uses the fused AdamW of torch"
    if spec is None:
        fix = "not needed; `pip install apex` would bring another project"
        return Check(name="apex", status="missing", found="-", cost=nothing, fix=fix)
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if not any((folder / "optimizers").is_dir() for folder in folders):
        return Check(
            name="apex",
            status="other",
            found=f"{version('apex') or 'apex'} is not NVIDIA's: PyPI's apex is a toolkit for the "
            "Pyramid web framework",
            cost=nothing,
            fix="pip uninstall apex",
        )
    return check_package("apex.optimizers", distribution="apex", cost=nothing)


def check_cores() -> Check:
    """Report the CPU cores that this process may use, and their features."""
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    features = [flag for flag in known if flag in cpu_flags()]
    found = f"{usable_cores()} cores, {' '.join(features) or 'features unknown'}"
    return Check(name="cpu", status="ok", found=found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """Check /dev/shm, which NCCL uses between processes; our loaders only keep locks there."""
    if not folder.is_dir():
        return Check(name="shared memory", status="ok", found=f"no {folder} on this system")
    total = shutil.disk_usage(folder).total
    return Check(
        name="shared memory",
        status="ok" if total >= GIB else "low",
        found=f"{total / GIB:.1f} GiB in {folder}",
        cost="several GPUs without peer-to-peer access need more; a single GPU needs none",
        fix="docker run --shm-size=8g (or --ipc=host)",
    )


def check_disk() -> Check:
    """Check the free space in the current folder."""
    free = shutil.disk_usage(Path.cwd()).free
    return Check(
        name="disk",
        status="ok" if free >= 5 * GIB else "low",
        found=f"{free / GIB:.0f} GiB free here",
        cost="checkpoints and .beton files may not fit",
        fix="--output_dir on a larger disk",
    )


def check_package(
    module: str,
    *,
    distribution: str | None = None,
    cost: str,
    fix: str | None = None,
    required: bool = False,
    at_least: tuple[int, int] | None = None,
    ran: Ran | None = None,
) -> Check:
    """Check that `module` imports, and report the version that the installer recorded.

    ran: the outcome of its import; None: try it.
    """
    name = distribution or module
    fix = fix or f"pip install --upgrade {name}"
    row = {"name": name, "cost": cost, "fix": fix, "required": required}
    number = version(name)
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return Check(status="missing", found="-", **row)
    ran = ran or run_python(f"import {module}")
    if ran.reason:
        if number is None and ran.reason.startswith("ModuleNotFoundError"):
            return Check(status="missing", found="-", **row)
        check = Check(status="broken", found=f"{number}: {ran.reason}", **row)
        return unknown(check, ran) if ran.short_of else check
    if at_least and number and release(number) < at_least:
        least = ".".join(map(str, at_least))
        return Check(status="broken", found=f"{number}, but {least} or newer is needed", **row)
    return Check(status="ok", found=number or "version unknown", **row)


def unknown(check: Check, ran: Ran) -> Check:
    """Return the row of a part about which nothing is known: the machine is short of something."""
    status = {"time": "slow", "memory": "low"}[ran.short_of]
    cost = "not known: the machine is too busy, or too small, to tell"
    fix = f"free some {ran.short_of}, and run fastimae-doctor again"
    return dataclasses.replace(check, status=status, cost=cost, fix=fix)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    partial(check_package, "torchvision", required=True, cost="fastimae-eval does not work"),
    check_pillow,
    check_requirements,
    partial(check_package, "triton", cost="on a GPU, plain torch ops instead of the fused kernels"),
    check_native,
    check_ffcv,
    partial(
        check_package,
        "nvidia.dali",
        distribution="nvidia-dali-cuda130",
        cost="no --dali (decoding on the GPU)",
        fix="pip install 'fastimae[dali]', or nvidia-dali-cuda120 for a driver of CUDA 12",
    ),
    partial(
        check_package,
        "timm",
        cost="no fastimae-eval finetune and linear",
        fix="pip install 'fastimae[eval]'",
    ),
    partial(
        check_package,
        "faster_coco_eval",
        distribution="faster-coco-eval",
        cost="no fastimae-eval detect",
        fix="pip install 'fastimae[eval]'",
    ),
    check_apex,
    check_cores,
    check_shared_memory,
    check_disk,
)
