"""What the driver and torch say of a GPU, to be noted with every measurement."""

from __future__ import annotations

import subprocess

import torch

ASKED = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "sm_mhz_at_most": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "memory_mhz_at_most": "clocks.max.mem",
}
"""Our name: that of nvidia-smi."""
PATIENCE = 10.0


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
