"""From measurements to what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from fastimae.bench.measure import Speed

HEADROOM = 1.2
"""A loader this much faster than the step never makes it wait."""
NEARLY = 0.97
"""Of the best speed: more is not worth more memory or threads."""
DISTURBED = 0.85
"""Of the slower part's speed: with less, the parts take something from each other."""

SMALLER_IMAGES = "fastimae-convert --max_resolution 384 --reencode: smaller images decode faster"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything measured. Speeds of tries are by the value tried."""

    loader: Speed | None
    step: Speed
    both: Speed | None
    workers: Mapping[int, Speed] = dataclasses.field(default_factory=dict)
    batch_sizes: Mapping[int, Speed] = dataclasses.field(default_factory=dict)


def best_workers(found: Findings, given: int) -> int:
    """The fewest threads that keep the step fed with headroom, or else the fastest number."""
    if not found.workers:
        return given
    needed = HEADROOM * found.step.img_per_s
    enough = [n for n, one in found.workers.items() if one.img_per_s >= needed]
    fastest = max(one.img_per_s for one in found.workers.values())
    near = [n for n, one in found.workers.items() if one.img_per_s >= NEARLY * fastest]
    return min(enough or near)


def best_batch_size(found: Findings, given: int) -> int:
    """The smallest batch whose step is about as fast as the fastest."""
    if not found.batch_sizes:
        return given
    fastest = max(one.img_per_s for one in found.batch_sizes.values())
    return min(n for n, one in found.batch_sizes.items() if one.img_per_s >= NEARLY * fastest)


def bottleneck(found: Findings) -> str:
    """ "loader", "step", or "shared", where both fight for the same cores."""
    if found.loader is None or found.both is None:
        return "step"
    slower = min(found.loader.img_per_s, found.step.img_per_s)
    if found.loader.img_per_s < found.step.img_per_s:
        return "loader"
    return "shared" if found.both.img_per_s < DISTURBED * slower else "step"


def advice(
    found: Findings, *, workers: int, cores: int, batch_size: int, on_gpu: bool, fp32: bool
) -> list[str]:
    """What holds the run back, then one line for each flag that would help."""
    which = bottleneck(found)
    if which == "loader":
        share = found.loader.img_per_s / found.step.img_per_s
        return [
            f"The loader is the bottleneck: it brings {share:.0%} of the images that the step "
            "could take.",
            *_for_the_loader(found, workers, cores, on_gpu),
        ]
    if which == "shared":
        lost = 1 - found.both.img_per_s / found.step.img_per_s
        return [
            f"Loader and step share the cores: together they are {lost:.0%} slower than the step "
            "alone.",
            *_fewer_workers(found, workers),
            SMALLER_IMAGES,
        ]
    lines = ["The step is the bottleneck: it is busy, and the loader has time to spare."]
    if found.loader is None:
        lines = ["Only the step was measured: name a .beton file to measure its loader, too."]
    if best_batch_size(found, batch_size) != batch_size:
        best = best_batch_size(found, batch_size)
        gain = found.batch_sizes[best].img_per_s / found.batch_sizes[batch_size].img_per_s
        lines.append(
            f"--batch_size {best}: {gain:.2f} times the images a second (change --accum_iter "
            "with it, so that the effective batch stays)"
        )
    if fp32 and on_gpu:
        lines.append("--precision bf16: several times as fast on GPUs that have it")
    return lines + _fewer_workers(found, workers)


def _for_the_loader(found: Findings, workers: int, cores: int, on_gpu: bool) -> list[str]:
    lines = []
    best = best_workers(found, workers)
    if best > workers or (workers < cores and not found.workers):
        lines.append(f"--num_workers {max(best, cores)}: this machine has {cores} cores for it")
    lines.append(SMALLER_IMAGES)
    lines.append("--repeated_aug 2: two crops of each decoded image")
    if on_gpu:
        lines.append("--dali_share 0.3: NVIDIA DALI decodes a share of the images on the GPU")
    return lines


def _fewer_workers(found: Findings, workers: int) -> list[str]:
    best = best_workers(found, workers)
    if best >= workers:
        return []
    return [f"--num_workers {best}: is enough, and leaves cores to other work"]
