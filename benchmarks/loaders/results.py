"""Results for the JSON file, under stable names; and our engine's speed against its targets."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Mapping

import torch
from PIL import features

from benchmarks.conditions import versions_or_absence
from benchmarks.loaders.measure import Measured
from fastimae.cpus import usable_cores
from fastimae.loaders import native_library
from fastimae.machine import cpu_flags, cpu_model

DISTRIBUTIONS = (
    *("ffcv", "numba", "opencv-python", "nvidia-dali-cuda130"),
    *("simplejpeg", "torchcodec", "spdl"),
)
SUBJECT = "native"
TARGET_WORKERS = 2
"""Threads that the targets were set for, on two cores."""


def where(report: Mapping) -> dict[str, object]:
    """Return more conditions of a report: its device with the CPU, and versions of decoders."""
    gpu = [report["device"]] * torch.cuda.is_available()
    library = native_library.load()
    versions = report["versions"] | versions_or_absence(DISTRIBUTIONS)
    versions["libjpeg-turbo of Pillow"] = features.version_feature("libjpeg_turbo") or "unknown"
    versions["native engine"] = library.description() if library else "not built"
    return {
        "device": ", ".join([cpu_model(), f"{usable_cores()} cores", simd(), *gpu]),
        "versions": versions,
    }


def simd() -> str:
    """Name the vector instructions that matter here."""
    flags = cpu_flags()
    if "avx512_vnni" in flags:
        return "AVX-512 VNNI"
    return "AVX2" if "avx2" in flags else "no AVX2"


def results(found: Mapping[str, Measured]) -> list[dict[str, object]]:
    """Make an object for each loader that was measured."""
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
    """Compute the microseconds of one thread per image and stage; None if unknown.

    parts: the increase of `LoaderUnderTest.stage_times` in some rounds.
    """
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    images = total.pop("images", 0)
    return {name: 1e6 * spent / images for name, spent in total.items()} if images else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """How many times as fast as `against` our engine should be."""

    section: str
    against: str
    ratio: float
    note: str = ""


def targets(*, avx512: bool) -> tuple[Target, ...]:
    """Return the engine's targets.

    They are for crops of 224 pixels, images of 500 pixels at quality 90 in the .beton, and JPEGs of
    ImageNet as original images.
    """
    ffcv = 1.8 if avx512 else 1.6
    return (
        Target(section="beton", against="ffcv", ratio=ffcv),
        Target(section="beton", against="ffcv", ratio=2.4, note="with our Huffman decoder"),
        Target(section="beton", against="torchvision", ratio=3.5),
        Target(section="beton", against="dali", ratio=3.2),
        Target(section="originals", against="torchvision", ratio=2.6),
    )


def ratios(section: str, found: Mapping[str, Measured], goals: tuple[Target, ...]) -> list[dict]:
    """Make rows with our engine's speed over that of each other loader of the section.

    "min" and "max" are of single rounds; "cpu_ratio" is of the CPU time per image, which other work
    on the machine disturbs less. "met" is None without a target.
    """
    sound = {name: one for name, one in found.items() if one.rounds and not one.failed}
    ours, rows = sound.pop(SUBJECT, None), []
    if ours is None:
        return rows
    for name, other in sound.items():
        # The other's round ran within seconds of the same round of ours.
        single = [a / b for a, b in zip(ours.speeds, other.speeds, strict=True)]
        ratio = ours.speed / other.speed
        fitting = [goal for goal in goals if (goal.section, goal.against) == (section, name)]
        for goal in fitting or [None]:
            rows.append(
                {
                    "section": section,
                    "against": name,
                    "ratio": ratio,
                    "min": min(single),
                    "median_of_rounds": statistics.median(single),
                    "max": max(single),
                    "cpu_ratio": other.cpu_seconds / ours.cpu_seconds,
                    "target": goal.ratio if goal else None,
                    "met": _is_met(goal, ratio, ours.job.num_workers),
                    "note": goal.note if goal else "",
                }
            )
    return rows


def _is_met(goal: Target | None, ratio: float, workers: int) -> bool | None:
    if goal is None or workers != TARGET_WORKERS:
        return None
    return ratio >= goal.ratio
