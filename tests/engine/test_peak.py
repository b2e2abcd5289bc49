"""The measurement of the peak FLOP/s for MFU, once per GPU, and of peak memory."""

import itertools
import json
import mmap

import pytest
import torch

from fastimae.engine import peak
from fastimae.engine.memory import peak_memory, resident
from fastimae.engine.peak import CPU_SIDES, cache_file, peak_rate, product_rate

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Return the measurements on a fake GPU, where each product takes longer than the last."""
    measured = []

    def rate(device, dtype, side):
        measured.append((dtype, side))
        return 1e15 / len(measured)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(peak, "product_rate", rate)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: measured.append("reset"))
    return measured


def test_the_rate_is_that_of_the_fastest_round(monkeypatch):
    ticks = itertools.accumulate([0.0, 0.5, 1.0, 0.25, 1.0, 4.0])  # rounds of 0.5, 0.25 and 4 s
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(ticks))
    assert product_rate(CPU, torch.bfloat16, 8, rounds=3, calls=4) == 4 * 2 * 8**3 / 0.25


def test_a_moment_in_which_the_cpu_is_busy_does_not_count(monkeypatch):
    ticks = itertools.accumulate([0.0] + [8.0, 1.0] * 5 + [1.0, 1.0] * 20)  # a stall, then none
    monkeypatch.setattr(peak.time, "perf_counter", lambda: next(ticks))
    assert product_rate(CPU, torch.float32, 8, rounds=5, span=42.0) == 2 * 8**3 / 1.0


def test_measuring_leaves_random_numbers_as_they_are():
    before = torch.get_rng_state()
    assert peak_rate(CPU, "fp32") > 1e8
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("rate", "tried"), [(1e9, 1), (1e12, 2), (1e14, len(CPU_SIDES))])
def test_a_slow_cpu_is_not_kept_long_and_a_fast_one_is_kept_busy(monkeypatch, rate, tried):
    sides = []
    monkeypatch.setattr(peak, "product_rate", lambda _, __, side, **_k: sides.append(side) or rate)
    assert peak_rate(CPU, "fp32") == rate
    assert sides == list(CPU_SIDES[:tried])


def test_a_gpu_is_measured_once_for_each_precision(gpu):
    assert peak_rate(GPU, "bf16") == peak_rate(GPU, "bf16") == 1e15
    assert gpu == [(torch.bfloat16, 8192), "reset"]
    assert peak_rate(GPU, "fp16") < 1e15
    assert len(json.loads(cache_file().read_text())) == 2


def test_another_gpu_or_torch_is_measured_anew(gpu, monkeypatch):
    rates = {peak_rate(GPU, "bf16")}
    monkeypatch.setattr(torch, "__version__", "9.9")
    rates.add(peak_rate(GPU, "bf16"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    rates.add(peak_rate(GPU, "bf16"))
    assert len(rates) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"H100": null}', '{"H100": 0}'])
def test_a_damaged_file_is_written_anew(gpu, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content.replace("H100", f"H100, torch {torch.__version__}, bf16"))
    assert peak_rate(GPU, "bf16") == peak_rate(GPU, "bf16") == 1e15


@pytest.mark.parametrize("obstacle", ["a file", "no home"])
def test_where_nothing_can_be_kept_each_run_measures(gpu, obstacle, monkeypatch, tmp_path):
    if obstacle == "a file":
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(peak.Path, "home", _no_home)
    assert peak_rate(GPU, "bf16") == 1e15
    assert peak_rate(GPU, "bf16") < 1e15


def _no_home():
    raise RuntimeError("Could not determine home directory.")


def test_peak_memory_of_a_cpu_is_what_the_process_had_at_most():
    # Directly from the system: memory that torch frees may stay in the process (keep_freed_memory).
    with mmap.mmap(-1, 160_000_000) as block:
        block[:] = bytes(len(block))
        full = resident("VmRSS")
    assert resident("VmRSS") < full - 150e6
    assert peak_memory(CPU) > full - 1e6


def test_peak_memory_of_a_gpu_is_torchs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {GPU: 7}.get)
    assert peak_memory(GPU) == 7
