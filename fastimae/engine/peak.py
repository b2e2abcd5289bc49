"""What a device computes at most: the rate of a large matrix product, which MFU is a share of."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import torch

from fastimae.engine.memory import forget_memory
from fastimae.engine.precision import DTYPES
from fastimae.engine.throttle import synchronize
from fastimae.folders import write_text

GPU_SIDE = 8192
GPU_CALLS = 5
"""Products in a row, so that starting one is not timed."""
CPU_SIDES = (512, 1024, 2048)
"""Small ones keep a slow CPU for a moment only, large ones all cores of a fast one busy."""
CPU_SECONDS = 2e-3
"""Of a product that is large enough."""
CPU_SPAN = 0.05
"""Seconds of rounds at least: for longer than other processes keep a core to themselves."""
ROUNDS = 5


def peak_rate(device: torch.device, precision: str) -> float:
    """Operations a second of the device's fastest square product in "bf16", "fp16" or "fp32".

    A GPU is measured once: the result is kept in `cache_file()` for this model of GPU and version
    of torch. To measure it takes memory, and torch forgets the peak so far: call this before a run
    takes any. A CPU is measured in each call, in about 0.2 s, with torch's number of threads.
    """
    dtype = DTYPES[precision]
    if device.type == "cpu":
        return _cpu_rate(device, dtype)
    key = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {precision}"
    if key not in (rates := _read()):
        rates[key] = product_rate(device, dtype, GPU_SIDE)
        forget_memory(device)
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
    """Operations a second of products of two [side, side] matrices of random numbers.

    Of the fastest round, as other work on the machine must not look like a low peak. calls: of a
    round; None: GPU_CALLS on a GPU, else 1. span: go on with rounds for so many seconds. Leaves
    torch's random generators as they are.
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
    """Where rates of GPUs are kept."""
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
    """All that is kept; nothing where the file is missing or damaged."""
    try:
        rates = json.loads(cache_file().read_text())
        return {key: rate for key, rate in rates.items() if rate > 0}
    except (OSError, RuntimeError, ValueError, AttributeError, TypeError):  # RuntimeError: no home
        return {}


def _write(rates: dict[str, float]) -> None:
    """Keep the rates, if that can be: where it cannot, each run measures."""
    with contextlib.suppress(OSError, RuntimeError):
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        ours = f".{os.getpid()}"  # all ranks write at once
        write_text(file, json.dumps(rates, indent=1) + "\n", ours)
