"""Timing that can be trusted: variants interleaved, medians with quantiles, conditions noted."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "torchvision", "timm", "numpy", "pillow")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a call took: the median and the 20 % and 80 % quantiles over all rounds."""

    median: float
    low: float
    high: float


def conditions(device: torch.device, command: str) -> dict[str, object]:
    """Where and with what a measurement was made, for the head of its JSON file."""
    return {
        "device": device_name(device),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
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


def interleaved(
    variants: Mapping[str, Callable[[], None]],
    device: torch.device,
    *,
    rounds: int,
    calls: int = 1,
    warm_up: int = 2,
) -> dict[str, Timing]:
    """Time each variant `rounds` times, taking turns, so that drift hits all alike.

    calls: in a row, for one timing. Returns seconds a call.
    """
    for call in variants.values():
        for _ in range(warm_up):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                call()
            synchronize(device)
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: summarise(values) for name, values in seconds.items()}


def summarise(seconds: list[float]) -> Timing:
    """Median and quantiles of some timings."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return Timing(
        statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)]
    )


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_json(path: Path, report: Mapping[str, object]) -> None:
    """Write a report, as `write_whole` does. Its "complete" says whether the run had ended."""
    write_whole(path, json.dumps(report, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file, and its folder, so that a run killed at any moment leaves the old or the new
    content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def table(rows: list[dict[str, object]]) -> str:
    """Rows with the same keys as a Markdown table; floats to four digits."""
    if not rows:
        return "(nothing measured)\n"
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[_cell(row.get(head, "")) for head in heads] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
