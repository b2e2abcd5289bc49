"""`python -m benchmarks.loaders`: sections, threads, tables."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.harness import Report
from benchmarks.loaders.contestant import CROPS, Job
from benchmarks.loaders.contestants import (
    CONTESTANTS,
    IN_BETON,
    NEED_CUDA,
    ON_ORIGINALS,
    OVER_THREADS,
)
from benchmarks.loaders.images import ImageSet, image_set, original_images
from benchmarks.loaders.markdown import markdown, plot_sweep
from benchmarks.loaders.measure import Measured, measure
from benchmarks.loaders.options import Options
from benchmarks.loaders.results import ratios, results, simd, targets, where
from fastimae.arguments import command, parse
from fastimae.loaders.errors import DataError

PROG = "python -m benchmarks.loaders"
SWEEP_ROUNDS = 3


@command(PROG)
def main(argv: Sequence[str]) -> int:
    """0 if all went well, 1 if a contestant failed or was asked for and is missing, 2 for errors
    in the command line or the data."""
    options = parse(PROG, Options, argv)
    parts = {"settings": settings(options)}
    parts |= {key: {} for key in ("sets", "missing", "failed")}
    parts |= {key: [] for key in ("results", "originals", "ratios", "sweep")}
    gpu = torch.cuda.is_available()  # which decodes for some contestants
    device = torch.device("cuda" if gpu else "cpu")
    report = Report(device, PROG, argv, options.out, page=markdown, **parts)
    report |= where(report)
    report.keep()
    with tempfile.TemporaryDirectory(prefix="fastimae-benchmark-") as scratch:
        images = image_set("beton", options.data, Path(scratch), options.images, options.seed)
        found = _section(report, "results", images, IN_BETON, options)
        if options.folder is not None:
            originals = original_images(options.folder, Path(scratch), options.images, options.seed)
            _section(report, "originals", originals, ON_ORIGINALS, options)
        if options.sweep:
            _sweep(report, images, found, options)
    report.finish()
    draw(report, options.out)
    print(markdown(report))
    return int(bool(report["failed"]) or bool(set(options.only) & set(report["missing"])))


def _section(
    report: Report, key: str, images: ImageSet, names: Sequence[str], options: Options
) -> dict[str, Measured]:
    """Measure with the threads asked for, and keep in the report what is found."""
    goals, others = targets(avx512=simd() == "AVX-512 VNNI"), report["ratios"]
    report["sets"][images.section] = images.facts

    def keep(found: Mapping[str, Measured]) -> None:
        report[key] = results(found)
        report["ratios"] = others + ratios(images.section, found, goals)
        _note_absent(report, images.section, found)
        report.keep()

    return measure(
        {name: CONTESTANTS[name] for name in _chosen(names, options)},
        _job(images, options, options.workers),
        rounds=options.rounds,
        seconds=options.seconds,
        keep=keep,
    )


def _sweep(
    report: Report, images: ImageSet, found: Mapping[str, Measured], options: Options
) -> None:
    """Measure with fewer threads; those of the section are taken from it."""
    chosen = [name for name in _chosen(OVER_THREADS, options) if found[name].rounds]
    same = [row for row in report["results"] if row["backend"] in chosen]
    count, done = 1, []

    def keep(fewer: Mapping[str, Measured]) -> None:
        report["sweep"] = [*done, *results(fewer), *same]
        _note_absent(report, f"{count} threads", fewer)
        report.keep()

    while count < options.workers and chosen:
        fewer = measure(
            {name: CONTESTANTS[name] for name in chosen},
            _job(images, options, count),
            rounds=min(SWEEP_ROUNDS, options.rounds),
            seconds=options.seconds,
            thorough=False,
            keep=keep,
        )
        done += results(fewer)
        count *= 2
    report["sweep"] = [*done, *same]


def _chosen(names: Sequence[str], options: Options) -> list[str]:
    if options.only:
        return [name for name in names if name in options.only]
    return [name for name in names if name not in NEED_CUDA or torch.cuda.is_available()]


def _job(images: ImageSet, options: Options, workers: int) -> Job:
    if len(images.subset) < options.batch_size:
        count, asked = len(images.subset), options.batch_size
        raise DataError(f"{count} images of {images.facts['source']} are no --batch_size {asked}")
    return Job(images=images, batch_size=options.batch_size, num_workers=workers, seed=options.seed)


def _note_absent(report: dict, where: str, found: Mapping[str, Measured]) -> None:
    for name, one in found.items():
        if one.missing:
            report["missing"][name] = one.missing
        if one.failed:
            report["failed"][f"{name} ({where})"] = one.failed


def settings(options: Options) -> dict[str, object]:
    """What the command leaves open."""
    asked = {name: getattr(options, name) for name in ("batch_size", "rounds", "seconds", "seed")}
    crops = {"input_size": CROPS.size, "crop_scale": CROPS.scale}
    return {"num_workers": options.workers, **asked, **crops}


def draw(report: dict, out: Path | None) -> None:
    """The plot over threads, if there is something to plot."""
    if out and len({row["num_workers"] for row in report["sweep"]}) > 1:
        plot_sweep(report["sweep"], str(report["device"]), out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
