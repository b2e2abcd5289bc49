"""Conditions of a measurement: device, driver, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from fastimae.machine import checkout_commit, cpu_model, versions_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "pillow")
ASKED = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "sm_mhz_at_most": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "memory_mhz_at_most": "clocks.max.mem",
}
"""Fields of nvidia-smi by our names."""
PATIENCE = 10.0
"""Seconds to wait for nvidia-smi."""


def conditions(device: torch.device, command: str) -> dict[str, object]:
    """Collect where and with what a measurement was made, for the head of its JSON file."""
    return {
        "device": device_name(device),
        **({"gpu": gpu_facts(device)} if device.type == "cuda" else {}),
        "versions": {"python": platform.python_version(), **versions_or_absence(PACKAGES)},
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }


def device_name(device: torch.device) -> str:
    """Name the GPU, or the CPU's model and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {torch.get_num_threads()} threads"


def gpu_facts(device: torch.device) -> dict[str, object]:
    """Collect size and clocks of a CUDA device, and the versions of CUDA and of the driver.

    Without nvidia-smi, its fields (`ASKED`; clocks in MHz) are absent.
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
    except (OSError, subprocess.SubprocessError):  # it is missing, hangs or fails
        return {}
    values = [value.strip() for value in done.stdout.split(",")]
    return {
        name: int(value) if value.isdecimal() else value
        for name, value in zip(ASKED, values, strict=False)
    }


def versions_or_absence(distributions: Sequence[str]) -> dict[str, str]:
    """Return the version of each distribution, or "not installed"."""
    return dict.fromkeys(distributions, "not installed") | versions_of(distributions)


def commit() -> str:
    """Return what is measured: the variable FASTIMAE_COMMIT, else git's description, or "unknown".

    The variable is for sources that are copied without their history.
    """
    return os.environ.get("FASTIMAE_COMMIT") or checkout_commit(digits=7) or "unknown"
