"""Where and with what a measurement was made: device, driver, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from fastimae.machine import version

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "pillow")
ASKED = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "sm_mhz_at_most": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "memory_mhz_at_most": "clocks.max.mem",
}
"""Our name: that of nvidia-smi."""
PATIENCE = 10.0


def conditions(device: torch.device, command: str) -> dict[str, object]:
    """Where and with what a measurement was made, for the head of its JSON file.

    The commit is that of the variable FASTIMAE_COMMIT, where sources travel without their history.
    """
    return {
        "device": device_name(device),
        **({"gpu": gpu_facts(device)} if device.type == "cuda" else {}),
        "versions": {"python": platform.python_version(), **versions_of(PACKAGES)},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's model and cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    return f"{model}, {torch.get_num_threads()} threads"


def gpu_facts(device: torch.device) -> dict[str, object]:
    """Size and clocks of a CUDA device, CUDA's version and the driver's.

    What nvidia-smi tells (`ASKED`; clocks in MHz) is absent where there is none.
    """
    found = torch.cuda.get_device_properties(device)
    return {
        "memory_gb": found.total_memory / 1e9,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        **_driver_facts(f"GPU-{found.uuid}"),
    }


def _driver_facts(uuid: str) -> dict[str, object]:
    fields = ",".join(ASKED.values())
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={fields}"]
    command.append("--format=csv,noheader,nounits")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):  # none, one that hangs, one that fails
        return {}
    values = [value.strip() for value in done.stdout.split(",")]
    return {
        name: int(value) if value.isdecimal() else value
        for name, value in zip(ASKED, values, strict=False)
    }


def versions_of(distributions: Sequence[str]) -> dict[str, str]:
    """Of each distribution, or "not installed"."""
    return {name: version(name) or "not installed" for name in distributions}


def commit() -> str:
    """What is measured: FASTIMAE_COMMIT, for sources that travel without their history, or git's
    word, or "unknown"."""
    if given := os.environ.get("FASTIMAE_COMMIT"):
        return given
    if not (ROOT / ".git").exists():  # git would speak of a repository around this folder
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return done.stdout.strip() or "unknown"
