"""Facts about this machine: packages, build tools, CPU features. Imports nothing heavy."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

IMPORT_SECONDS = 60


def run_python(code: str) -> tuple[str, str]:
    """Runs `code` in another Python with the same `sys.path`; (its output, why it failed or "")."""
    same_path = "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    command = [sys.executable, "-c", same_path + code, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"still importing after {IMPORT_SECONDS} s"
    if done.returncode < 0:
        return "", f"importing it kills Python (signal {-done.returncode})"
    if done.returncode:
        return "", (done.stderr.strip() or "unknown error").splitlines()[-1]
    return done.stdout, ""


def version(distribution: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def release(number: str) -> tuple[int, int]:
    """The first two numbers of a version: "2.10.1+cu130" -> (2, 10)."""
    major, minor = [*re.findall(r"\d+", number), "0"][:2]
    return int(major), int(minor)


def usable_cores() -> int:
    """The CPU cores that this process may use, which are all where the system does not say."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them, empty elsewhere."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def cpu_bf16(flags: frozenset[str]) -> str:
    """Whether the CPU computes in bf16, and what `--precision auto` makes of it."""
    for flag, unit in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512")):
        if flag in flags:
            return f"yes, by {unit}"
    return "no, so --precision auto is fp32"


def missing_build_packages() -> list[str]:
    """The Debian packages without which ffcv does not build or import."""
    tool = shutil.which("pkg-config")

    def has_library(name: str) -> bool:
        return bool(tool) and subprocess.run([tool, "--exists", name], check=False).returncode == 0

    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    there = {
        "g++": shutil.which("g++") is not None,
        "pkg-config": tool is not None,
        "python3-dev": header.exists(),
        "libturbojpeg0-dev": has_library("libturbojpeg"),
        "libopencv-dev": has_library("opencv4"),
        "libgl1": ctypes.util.find_library("GL") is not None,
    }
    return [package for package, present in there.items() if not present]
