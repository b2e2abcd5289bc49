"""What is installed, what is missing, what that costs, and how to get it (`fastimae-doctor`).

Packages are imported in processes of their own, at the same time: one that crashes or hangs while
it loads is a row of the report, not the end of it.
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
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

from fastimae.machine import (
    cpu_bf16,
    cpu_flags,
    missing_build_packages,
    release,
    run_python,
    usable_cores,
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
    status: Literal["ok", "missing", "broken", "low"]
    found: str
    cost: str = ""
    """What does not work, or works slower, as it stands."""
    fix: str = ""
    required: bool = False


def doctor() -> int:
    """Runs the checks at the same time, and prints each row as soon as it is known, in reading
    order, with what that costs and how to mend it where all is not well. Takes some seconds: torch
    is imported several times. Returns 1 if something required is amiss, else 0."""
    failed = False
    with ThreadPoolExecutor(max_workers=4) as pool:
        for check in pool.map(lambda check: check(), CHECKS):
            print(f"{check.status:8} {check.name:20} {check.found}", flush=True)
            if check.status != "ok":
                print(f"{'':32}costs: {check.cost}\n{'':32}fix:   {check.fix}", flush=True)
                failed |= check.required
    return int(failed)


def check_python() -> Check:
    """Python 3.11 or newer."""
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
    """torch 2.10 or newer: its CUDA build, the devices, and where bf16 is fast."""
    facts, reason = run_python(TORCH_FACTS)
    check = check_package(
        "torch", required=True, cost="nothing runs", at_least=(2, 10), reason=reason
    )
    if check.status != "ok":
        return check
    device = json.loads(facts)
    build = f"CUDA {device['cuda']} build" if device["cuda"] else "CPU build"
    if device["gpus"]:
        found = f"{', '.join(device['gpus'])}; bf16 {'yes' if device['bf16'] else 'no'}"
    else:
        found = f"no GPU in sight, runs on the CPU; bf16 {cpu_bf16(cpu_flags())}"
    return dataclasses.replace(check, found=f"{check.found}, {build}; {found}")


def check_pillow() -> Check:
    """Pillow 13 or newer: 13 changed the order of the two resize passes, hence the pixels."""
    cost = "images differ from those of other machines in the last bit"
    return check_package(
        "PIL.Image", distribution="pillow", required=True, at_least=(13, 0), cost=cost
    )


def check_requirements() -> Check:
    """Whatever else setup.py asks for on every platform is installed."""
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
    """The compiled engine that decodes .beton files."""
    found, reason = run_python(NATIVE_FACTS)
    return Check(
        name="native engine",
        status="missing" if reason else "ok",
        found=reason or found.strip(),
        cost="--ffcv decodes with Pillow: the same pixels, several times slower",
        fix="sudo apt-get install g++ python3-dev libjpeg-dev && pip install -e .",
    )


def check_ffcv() -> Check:
    """The ffcv library, and what its build needs. Its own `__version__` is wrong: not read."""
    packages = missing_build_packages()
    apt = f"sudo apt-get install {' '.join(packages)} && " if packages else ""
    return check_package(
        "ffcv",
        cost="no --decoder ffcv (.beton files work: FastIMAE reads and writes them itself)",
        fix=f"{apt}pip install ffcv",
    )


def check_apex() -> Check:
    """NVIDIA apex, and the trap that `pip install apex` installs something else."""
    spec = importlib.util.find_spec("apex")
    nothing = "nothing: FastIMAE uses the fused AdamW of torch"
    if spec is None:
        fix = "not needed; `pip install apex` would bring another project"
        return Check(name="apex", status="missing", found="-", cost=nothing, fix=fix)
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if not any((folder / "optimizers").is_dir() for folder in folders):
        return Check(
            name="apex",
            status="broken",
            found=f"{version('apex') or 'apex'} is not NVIDIA's: PyPI's apex is a toolkit for the "
            "Pyramid web framework",
            cost=nothing,
            fix="pip uninstall apex",
        )
    return check_package("apex.optimizers", distribution="apex", cost=nothing)


def check_cores() -> Check:
    """The CPU cores this process may use."""
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    features = [flag for flag in known if flag in cpu_flags()]
    found = f"{usable_cores()} cores, {' '.join(features) or 'features unknown'}"
    return Check(name="cpu", status="ok", found=found)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Check:
    """/dev/shm, where NCCL's processes meet; our loaders only have locks there."""
    if not folder.is_dir():
        return Check(name="shared memory", status="ok", found=f"no {folder} on this system")
    total = shutil.disk_usage(folder).total
    return Check(
        name="shared memory",
        status="ok" if total >= GIB else "low",
        found=f"{total / GIB:.1f} GiB in {folder}",
        cost="several GPUs that do not reach each other directly need more; one needs none",
        fix="docker run --shm-size=8g (or --ipc=host)",
    )


def check_disk() -> Check:
    """Free space in the current folder."""
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
    reason: str | None = None,
) -> Check:
    """Whether `module` imports, with the version that the installer recorded.

    `reason` is why it does not import ("" if it does); left out, the import is tried here.
    """
    name = distribution or module
    fix = fix or f"pip install --upgrade {name}"
    row = {"name": name, "cost": cost, "fix": fix, "required": required}
    number = version(name)
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return Check(status="missing", found="-", **row)
    if reason is None:
        _, reason = run_python(f"import {module}")
    if reason:
        if number is None and reason.startswith("ModuleNotFoundError"):
            return Check(status="missing", found="-", **row)
        return Check(status="broken", found=f"{number}: {reason}", **row)
    if at_least and number and release(number) < at_least:
        least = ".".join(map(str, at_least))
        return Check(status="broken", found=f"{number}, but {least} or newer is needed", **row)
    return Check(status="ok", found=number or "version unknown", **row)


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
    check_apex,
    check_cores,
    check_shared_memory,
    check_disk,
)
