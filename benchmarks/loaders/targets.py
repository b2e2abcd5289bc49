"""How much faster our engine is than the others, against what it is meant to be."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

from benchmarks.loaders.measure import Measured

SUBJECT = "native"
TARGET_WORKERS = 2
"""Targets were set for two threads on two cores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Times the speed of `against` that our engine should reach."""

    section: str
    against: str
    ratio: float
    note: str = ""


def targets(*, avx512: bool) -> tuple[Target, ...]:
    """What to hold the engine to: with crops of 224 pixels, images of 500 at quality 90 in the
    .beton, and JPEGs of ImageNet as original images."""
    ffcv = 1.8 if avx512 else 1.6
    return (
        Target(section="beton", against="ffcv", ratio=ffcv),
        Target(section="beton", against="ffcv", ratio=2.4, note="with our Huffman decoder"),
        Target(section="beton", against="torchvision", ratio=3.5),
        Target(section="beton", against="dali", ratio=3.2),
        Target(section="originals", against="torchvision", ratio=2.6),
    )


def ratios(section: str, found: Mapping[str, Measured], goals: tuple[Target, ...]) -> list[dict]:
    """Rows of a table: our engine's speed over that of each other contestant of the section.

    "min" and "max" are of single rounds; "cpu_ratio" is of the CPU time an image takes, which
    other work on the machine disturbs less. "met" is None where there is no target.
    """
    sound = {name: one for name, one in found.items() if one.rounds and not one.failed}
    ours, rows = sound.pop(SUBJECT, None), []
    if ours is None:
        return rows
    for name, other in sound.items():
        # A round of theirs ran within seconds of the same round of ours.
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
