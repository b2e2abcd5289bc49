"""A device's peak FLOP/s, which MFU is a share of: measured on large matrix products."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import torch

from fastimae.engine.memory import reset_memory
from fastimae.engine.precision import DTYPES
from fastimae.engine.throttle import synchronize
from fastimae.folders import write_text

GPU_SIDE = 8192
GPU_CALLS = 5
"""Products in a row, so that the launch of one is not timed."""
CPU_SIDES = (512, 1024, 2048)
"""Small ones take a slow CPU only a moment, large ones keep all cores of a fast one busy."""
CPU_SECONDS = 2e-3
"""A product that takes this long is large enough."""
CPU_SPAN = 0.05
"""Seconds of rounds, at least: longer than another process keeps a core to itself."""
ROUNDS = 5


def peak_rate(device: torch.device, precision: str) -> float:
    """Return the FLOP/s of the device's fastest square product in "bf16", "fp16" or "fp32".

    A GPU is measured once: `cache_file()` keeps the result per GPU model and torch version. The
    measurement takes memory and resets torch's memory peak: call it before a run allocates any. A
    CPU is measured on each call, in about 0.2 s, with torch's number of threads.
    """
    dtype = DTYPES[precision]
    if device.type == "cpu":
        return _cpu_rate(device, dtype)
    key = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {precision}"
    if key not in (rates := _read()):
        rates[key] = product_rate(device, dtype, GPU_SIDE)
        reset_memory(device)
        _write(rates)
    return rates[key]


def product_rate(
    device: torch.device,
    dtype: torch.dtype,
    side: int,
    rounds: int = ROUNDS,
    *,
    calls: int | None = None,
    span: float = 0.0,
) -> float:
    """Return the FLOP/s of products of two random [side, side] matrices.

    The fastest round counts, as other work on the machine must not look like a low peak. calls: per
    round; None: GPU_CALLS on a GPU, else 1. span: least seconds of all rounds together. Leaves
    torch's random generators unchanged.
    """
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in range(2))
    calls = calls or (GPU_CALLS if device.type == "cuda" else 1)
    seconds: list[float] = []
    while len(seconds) < rounds or sum(seconds) < span:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return calls * 2 * side**3 / min(seconds)


def cache_file() -> Path:
    """Return the file that keeps the rates of GPUs."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "fastimae" / "peaks.json"


def _cpu_rate(device: torch.device, dtype: torch.dtype) -> float:
    best = 0.0
    for side in CPU_SIDES:
        rate = product_rate(device, dtype, side, span=CPU_SPAN)
        best = max(best, rate)
        if 2 * side**3 / rate > CPU_SECONDS:
            break
    return best


def _read() -> dict[str, float]:
    """Return the kept rates, {} if the file is missing or damaged."""
    try:
        rates = json.loads(cache_file().read_text())
        return {key: rate for key, rate in rates.items() if rate > 0}
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError):  # RuntimeError: no home
        return {}


def _write(rates: dict[str, float]) -> None:
    """Keep the rates if the file can be written; if not, each run measures."""
    with contextlib.suppress(OSError, RuntimeError):
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        mark = f".{os.getpid()}"  # all ranks write at once
        write_text(file, json.dumps(rates, indent=1) + "\n", mark)
