"""Run `python -m benchmarks.loaders`: its sections, numbers of threads, and tables."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.harness import BenchmarkReport
from benchmarks.loaders.base import CROPS, LoadJob
from benchmarks.loaders.images import ImageSet, image_set, original_images
from benchmarks.loaders.measure import Measured, measure
from benchmarks.loaders.registry import (
    IN_BETON,
    LOADERS,
    NEED_CUDA,
    ON_ORIGINALS,
    OVER_THREADS,
)
from benchmarks.loaders.results import ratios, results, simd, targets, where
from benchmarks.loaders.tables import markdown, plot_sweep
from fastimae.arguments import command, parse
from fastimae.cpus import worker_count
from fastimae.loaders.errors import DataError
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.loaders"
SWEEP_ROUNDS = 3


@dataclasses.dataclass(kw_only=True)
class LoaderBenchOptions:
    """Measure all ways of loading a .beton file, with the same images for all.

    Prints tables in Markdown. If a library is missing, says how to install it. Exits with 1 if a
    loader fails, or if one that promises Pillow's pixels returns others; missing a target is not a
    failure. Use a quiet machine: other work on the same cores shows in min and max.
    """

    data: Path
    """A .beton file of JPEGs, as `fastimae-convert DIR F.beton --max_resolution 500` writes."""
    folder: Path | None = None
    """Original images, in any layout that fastimae-convert reads: a second section measures the
    most important loaders with these, at their full size."""
    out: Path | None = None
    """JSON file for everything measured so far, updated each round; tables and the plot over
    threads are written beside it, as .md and .png."""
    batch_size: int = 64
    """Images per batch."""
    num_workers: int | None = None
    """Threads or processes of each loader; by default one per core."""
    images: int = 1000
    """Most images of each set, drawn at random. They should fit into memory, since the speed of
    the disk is not what is measured."""
    rounds: int = 5
    """Timings of each loader."""
    seconds: float = 1.5
    """Seconds of one timing."""
    only: tuple[str, ...] = ()
    """Loaders to measure, instead of all that can run; a missing one is then an error."""
    sweep: bool = True
    """Also measure with 1, 2, 4... threads, up to --num_workers, and plot that."""
    seed: int = 0
    """Seed of the images drawn, of their windows and of the order of the loaders."""
    debug: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "images", "rounds", "workers"):
            if getattr(self, name) < 1:
                raise DataError(f"--{'num_' * (name == 'workers')}{name} must be at least 1")
        if self.seconds <= 0:
            raise DataError(f"--seconds must be more than 0, not {self.seconds:g}")
        if unknown := sorted(set(self.only) - set(LOADERS)):
            raise DataError(f"--only {unknown[0]}: is not one of {', '.join(LOADERS)}")

    @property
    def workers(self) -> int:
        """Threads or processes to use."""
        return worker_count(self.num_workers)


@command(PROG)
@closed_early_is_fine()
def main(argv: Sequence[str]) -> int:
    """Return 0 if all went well, 1 if a loader failed or a requested one is missing, else 2.

    2 is for errors in the command line or the data.
    """
    options = parse(PROG, LoaderBenchOptions, argv)
    parts = {"settings": settings(options)}
    parts |= {key: {} for key in ("sets", "missing", "failed")}
    parts |= {key: [] for key in ("results", "originals", "ratios", "sweep")}
    gpu = torch.cuda.is_available()  # on which some loaders decode
    device = torch.device("cuda" if gpu else "cpu")
    report = BenchmarkReport(device, PROG, argv, options.out, page=markdown, **parts)
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
    report: BenchmarkReport,
    key: str,
    images: ImageSet,
    names: Sequence[str],
    options: LoaderBenchOptions,
) -> dict[str, Measured]:
    """Measure a section with --num_workers threads, and keep the results in the report."""
    goals, others = targets(avx512=simd() == "AVX-512 VNNI"), report["ratios"]
    report["sets"][images.section] = images.facts

    def keep(found: Mapping[str, Measured]) -> None:
        report[key] = results(found)
        report["ratios"] = others + ratios(images.section, found, goals)
        _note_absent(report, images.section, found)
        report.keep()

    return measure(
        {name: LOADERS[name] for name in _chosen(names, options)},
        _job(images, options, options.workers),
        rounds=options.rounds,
        seconds=options.seconds,
        keep=keep,
    )


def _sweep(
    report: BenchmarkReport,
    images: ImageSet,
    found: Mapping[str, Measured],
    options: LoaderBenchOptions,
) -> None:
    """Measure with fewer threads; the results with all are taken from the section."""
    chosen = [name for name in _chosen(OVER_THREADS, options) if found[name].rounds]
    same = [row for row in report["results"] if row["backend"] in chosen]
    count, done = 1, []

    def keep(fewer: Mapping[str, Measured]) -> None:
        report["sweep"] = [*done, *results(fewer), *same]
        _note_absent(report, f"{count} threads", fewer)
        report.keep()

    while count < options.workers and chosen:
        fewer = measure(
            {name: LOADERS[name] for name in chosen},
            _job(images, options, count),
            rounds=min(SWEEP_ROUNDS, options.rounds),
            seconds=options.seconds,
            thorough=False,
            keep=keep,
        )
        done += results(fewer)
        count *= 2
    report["sweep"] = [*done, *same]


def _chosen(names: Sequence[str], options: LoaderBenchOptions) -> list[str]:
    if options.only:
        return [name for name in names if name in options.only]
    return [name for name in names if name not in NEED_CUDA or torch.cuda.is_available()]


def _job(images: ImageSet, options: LoaderBenchOptions, workers: int) -> LoadJob:
    if len(images.subset) < options.batch_size:
        count, asked = len(images.subset), options.batch_size
        raise DataError(
            f"{count} images of {images.facts['source']} are too few for --batch_size {asked}"
        )
    return LoadJob(
        images=images, batch_size=options.batch_size, num_workers=workers, seed=options.seed
    )


def _note_absent(report: dict, where: str, found: Mapping[str, Measured]) -> None:
    for name, one in found.items():
        if one.missing:
            report["missing"][name] = one.missing
        if one.failed:
            report["failed"][f"{name} ({where})"] = one.failed


def settings(options: LoaderBenchOptions) -> dict[str, object]:
    """Return the settings that the command line may leave to defaults."""
    asked = {name: getattr(options, name) for name in ("batch_size", "rounds", "seconds", "seed")}
    crops = {"input_size": CROPS.size, "crop_scale": CROPS.scale}
    return {"num_workers": options.workers, **asked, **crops}


def draw(report: dict, out: Path | None) -> None:
    """Plot speed over threads, if several numbers of threads were measured."""
    if out and len({row["num_workers"] for row in report["sweep"]}) > 1:
        plot_sweep(report["sweep"], str(report["device"]), out.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(main())
