"""Advice from measurements: the bottleneck, and the flags to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fastimae.bench.measure import Speed

HEADROOM = 1.2
"""A loader this much faster than the step never makes it wait."""
NEARLY = 0.97
"""Share of the best speed that is good enough: more is not worth more memory or threads."""
DISTURBED = 0.85
"""If both together reach less than this share of the slower part's speed, they share resources."""

PACKED = "fastimae-convert: a .beton file of the same images is decoded by our engine, in threads"
SMALLER_IMAGES = "fastimae-convert --max_resolution 384 --reencode: smaller images decode faster"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that was measured; `workers` and `batch_sizes` are keyed by the value tried."""

    loader: Speed | None
    step: Speed
    both: Speed | None
    workers: Mapping[int, Speed] = dataclasses.field(default_factory=dict)
    batch_sizes: Mapping[int, Speed] = dataclasses.field(default_factory=dict)


def best_workers(findings: Findings, given: int) -> int:
    """Return the fewest threads that feed the step with headroom, else the fastest number."""
    if not findings.workers:
        return given
    needed = HEADROOM * findings.step.img_per_s
    enough = [n for n, speed in findings.workers.items() if speed.img_per_s >= needed]
    fastest = max(speed.img_per_s for speed in findings.workers.values())
    near = [n for n, speed in findings.workers.items() if speed.img_per_s >= NEARLY * fastest]
    return min(enough or near)


def best_batch_size(findings: Findings, given: int) -> int:
    """Return the smallest batch size that is nearly as fast as the fastest."""
    if not findings.batch_sizes:
        return given
    fastest = max(speed.img_per_s for speed in findings.batch_sizes.values())
    return min(
        n for n, speed in findings.batch_sizes.items() if speed.img_per_s >= NEARLY * fastest
    )


def bottleneck(findings: Findings) -> str:
    """Return "loader", "step", or "shared" if both compete for the same cores."""
    if findings.loader is None or findings.both is None:
        return "step"
    slower = min(findings.loader.img_per_s, findings.step.img_per_s)
    if findings.loader.img_per_s < findings.step.img_per_s:
        return "loader"
    return "shared" if findings.both.img_per_s < DISTURBED * slower else "step"


def advice(
    findings: Findings,
    *,
    workers: int,
    cores: int,
    batch_size: int,
    on_gpu: bool,
    fp32: bool,
    own_dataset: bool = False,
) -> list[str]:
    """Return the bottleneck in a line, then a line for each flag that would help.

    own_dataset: images come from a user's code, not from a .beton file.
    """
    which = bottleneck(findings)
    if which == "loader":
        share = findings.loader.img_per_s / findings.step.img_per_s
        return [
            f"The loader is the bottleneck: it delivers {share:.0%} of the images that the step "
            "could process.",
            *_more_workers(findings, workers, cores),
            *_for_the_loader(on_gpu, own_dataset),
        ]
    if which == "shared":
        lost = 1 - findings.both.img_per_s / findings.step.img_per_s
        return [
            f"Loader and step compete for the cores: together they are {lost:.0%} slower than the "
            "step alone.",
            *_fewer_workers(findings, workers),
            PACKED if own_dataset else SMALLER_IMAGES,
        ]
    lines = ["The step is the bottleneck: the loader is faster."]
    if findings.loader is None:
        lines = ["Only the step was measured: give a .beton file to measure its loader, too."]
    if best_batch_size(findings, batch_size) != batch_size:
        best = best_batch_size(findings, batch_size)
        gain = findings.batch_sizes[best].img_per_s / findings.batch_sizes[batch_size].img_per_s
        lines.append(
            f"--batch_size {best}: {gain:.2f} times the images per second (change --accum_iter "
            "with it to keep the effective batch)"
        )
    if fp32 and on_gpu:
        lines.append("--precision bf16: several times as fast on GPUs with bf16 units")
    return lines + _fewer_workers(findings, workers)


def _more_workers(findings: Findings, workers: int, cores: int) -> list[str]:
    best = best_workers(findings, workers)
    if best > workers or (workers < cores and not findings.workers):
        return [f"--num_workers {max(best, cores)}: this machine has {cores} cores"]
    return []


def _for_the_loader(on_gpu: bool, own_dataset: bool) -> list[str]:
    if own_dataset:
        return [PACKED]
    lines = [SMALLER_IMAGES, "--repeated_aug 2: two crops of each decoded image"]
    if on_gpu:
        lines.append("--dali_share 0.3: NVIDIA DALI decodes a share of the images on the GPU")
    return lines


def _fewer_workers(findings: Findings, workers: int) -> list[str]:
    best = best_workers(findings, workers)
    if best >= workers:
        return []
    return [f"--num_workers {best}: enough, and leaves cores for other work"]
