"""Facts about this machine: packages, build tools, CPU features. Imports nothing heavy."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

IMPORT_SECONDS = 300
"""Far longer than any import takes, even on a loaded machine with a slow disk."""
GIT_SECONDS = 10


class Ran(NamedTuple):
    """What became of code in another process."""

    output: str
    reason: str = ""
    """Why it did not end well; "" if it did."""
    short_of: Literal["", "time", "memory"] = ""
    """What the machine lacked, if that is why: it tells nothing about the code."""
    crashed: bool = False


def run_python(code: str) -> Ran:
    """Run code in another Python with the same `sys.path`."""
    same_path = "import json, sys; sys.path[:] = json.loads(sys.argv[1])\n"
    command = [sys.executable, "-c", same_path + code, json.dumps(sys.path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Ran("", f"still importing after {IMPORT_SECONDS} s", short_of="time")
    if done.returncode == -signal.SIGKILL:
        return Ran("", "killed while importing, as if memory ran out", short_of="memory")
    if done.returncode < 0:
        reason = f"importing it kills Python (signal {-done.returncode})"
        return Ran("", reason, crashed=True)
    if done.returncode:
        return Ran("", (done.stderr.strip() or "unknown error").splitlines()[-1])
    return Ran(done.stdout)


def version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None if there is none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions_of(distributions: Iterable[str]) -> dict[str, str]:
    """Return the versions of those distributions that are installed, by name."""
    found = {name: version(name) for name in distributions}
    return {name: number for name, number in found.items() if number is not None}


def release(number: str) -> tuple[int, int]:
    """Return the first two numbers of a version: "2.10.1+cu130" -> (2, 10)."""
    major, minor = [*re.findall(r"\d+", number), "0"][:2]
    return int(major), int(minor)


def cpu_flags() -> frozenset[str]:
    """Return the CPU's feature flags as Linux names them; none on other systems."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def cpu_model() -> str:
    """Return the CPU's name as Linux gives it, else the name of its architecture."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else platform.machine() or "CPU"


def checkout_commit(digits: int = 40) -> str | None:
    """Return the commit of the checkout that this package is imported from, with "-dirty" if files
    have changed since; None for an installed package. digits: of the commit, at least."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # git would describe a repository around this folder
        return None
    command = ["git", "describe", "--always", "--dirty", f"--abbrev={digits}", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def cpu_bf16(flags: frozenset[str]) -> str:
    """Describe whether the CPU computes in bf16, and what `--precision auto` is then."""
    for flag, unit in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512")):
        if flag in flags:
            return f"yes, by {unit}"
    return "no, so --precision auto is fp32"


def missing_build_packages() -> list[str]:
    """Return the missing Debian packages that ffcv needs to build and import."""
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
