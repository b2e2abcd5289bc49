"""What was measured, for programs: plain numbers and strings under stable names."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping

import torch
from PIL import features

from benchmarks.harness import conditions, device_name
from benchmarks.loaders.measure import Measured
from fastimae.loaders import native_library
from fastimae.machine import cpu_flags, usable_cores

DISTRIBUTIONS = ("ffcv", "numba", "opencv-python", "nvidia-dali-cuda130")


def head(command: str) -> dict[str, object]:
    """Where and with what it was measured; a GPU decodes for some contestants."""
    gpu = torch.cuda.is_available()
    found = conditions(torch.device("cuda" if gpu else "cpu"), command)
    cpu = device_name(torch.device("cpu")).rpartition(", ")[0]
    names = [cpu, f"{usable_cores()} cores", simd(), *([found["device"]] if gpu else [])]
    found["device"] = ", ".join(map(str, names))
    versions = dict(found["versions"])
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    versions["libjpeg-turbo of Pillow"] = features.version_feature("libjpeg_turbo") or "unknown"
    library = native_library.load()
    versions["native engine"] = library.description() if library else "not built"
    return {**found, "versions": versions}


def simd() -> str:
    """The vector instructions that matter here."""
    flags = cpu_flags()
    if "avx512_vnni" in flags:
        return "AVX-512 VNNI"
    return "AVX2" if "avx2" in flags else "no AVX2"


def results(found: Mapping[str, Measured]) -> list[dict[str, object]]:
    """One object for each contestant that was measured."""
    return [_result(name, one) for name, one in found.items() if one.rounds and not one.failed]


def _result(name: str, one: Measured) -> dict[str, object]:
    last = one.checks[-1] if one.checks else None
    return {
        "backend": name,
        "what": one.make.what,
        "section": one.job.images.section,
        "num_workers": one.job.num_workers,
        "batch_size": one.job.batch_size,
        "img_per_s": one.speed,
        "img_per_s_min": min(one.speeds),
        "img_per_s_max": max(one.speeds),
        "img_per_s_rounds": one.speeds,
        "img_per_s_per_core": one.speed / min(one.job.num_workers, usable_cores()),
        "img_per_s_first_epoch": one.start.first_pass_img_per_s,
        "first_batch_ms": one.start.first_batch_ms,
        "cpu_seconds_per_img": one.cpu_seconds,
        "peak_memory_mb": None if one.peak_bytes is None else one.peak_bytes / 1e6,
        "pixel_mean_abs_diff": last and max(check.mean for check in one.checks),
        "pixel_max_abs_diff": last and max(check.largest for check in one.checks),
        "pixels_unequal": last and max(check.unequal for check in one.checks),
        "images_checked": sum(check.images for check in one.checks),
        "stages_us_per_img": stages(*(part.stages for part in one.rounds)),
        "stages_us_per_img_first_epoch": stages(one.start.stages),
    }


def stages(*parts: Mapping[str, float]) -> dict[str, float] | None:
    """Microseconds of one thread that an image takes in each stage; None if not told.

    parts: what `Contestant.stage_times` grew by, in some rounds.
    """
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    images = total.pop("images", 0)
    return {name: 1e6 * spent / images for name, spent in total.items()} if images else None
