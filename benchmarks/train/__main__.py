"""Run `python -m benchmarks.train`: its cases, variants, ladder and tables."""

from __future__ import annotations

import dataclasses
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from benchmarks.gemm import measure_square
from benchmarks.harness import BenchmarkReport, log_progress
from benchmarks.train.cases import CASES, SMOKE_CASES, TrainCase, default_cases
from benchmarks.train.fed import measure_fed
from benchmarks.train.measure import Row, measure_case
from benchmarks.train.tables import markdown, plot
from benchmarks.train.variants import ladder, main_variants, newest
from fastimae.arguments import command, parse
from fastimae.cpus import worker_count
from fastimae.settings import ConfigError
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.train"
FED = ("reference", "fastimae")
Part = Callable[[], Iterator[list[Row]]]
"""A measurement; yields its rows so far after each row or round."""


@dataclasses.dataclass(kw_only=True)
class TrainBenchOptions:
    """Compare our training step with the usual ones on this machine, in turns.

    Variants: reference (the plain pipeline, eager; fp16 on a GPU, fp32 on a CPU), reference_bf16,
    reference_tuned (what a careful user makes of it: bf16 where it pays, SDPA, torch.compile, no
    wait for the loss) and fastimae. All have to compute the same loss first. Prints tables in
    Markdown. Exits with 1 if a case fails; a speed is never a failure. Use a quiet machine.
    """

    cases: tuple[str, ...] = ()
    """Cases to train, instead of those that the device trains in minutes."""
    data: Path | None = None
    """A .beton file: also measure our step fed by our loader."""
    folder: Path | None = None
    """The same images as folders of classes: also measure the plain pipeline fed by its loader."""
    out: Path | None = None
    """JSON file for everything measured so far, updated each round; plots are written beside it,
    as .png."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    ladder: bool = False
    """Also measure one optimisation after another, from the plain pipeline to ours, for i-MAE."""
    rungs: Literal["all", "new"] = "all"
    """Rungs of the ladder; new: from the CUDA graph on (CPU: from the rung before the new ones)."""
    table: bool = True
    """Measure the variants; --no_table measures only the ladder, or fed steps."""
    variants: tuple[str, ...] = ()
    """Only these variants, also of fed steps."""
    batch_size: tuple[int, ...] = ()
    """Images per step: one number, or one for each of --cases; by default what fits on a GPU of
    80 GB with all variants, and fewer on a CPU."""
    rounds: int | None = None
    """Timings of each variant; by default 7 on a GPU, 3 on a CPU."""
    compile: bool = True
    """torch.compile in reference_tuned, which takes a minute or two."""
    num_workers: int | None = None
    """Threads or processes of the loaders; by default one per core, at most 16."""
    seconds: float = 8.0
    """Seconds to measure each fed variant."""
    smoke: bool = False
    """Tiny models, to try the benchmark itself."""
    debug: bool = False
    """Show tracebacks."""

    def __post_init__(self) -> None:
        known = SMOKE_CASES if self.smoke else CASES
        if unknown := [name for name in self.cases if name not in known]:
            raise ConfigError(f"--cases {unknown[0]} is not one of {', '.join(known)}")
        variants = main_variants(torch.device("cpu"))  # the names are the same on every device
        if unknown := [name for name in self.variants if name not in variants]:
            raise ConfigError(f"--variants {unknown[0]} is not one of {', '.join(variants)}")
        if min(self.batch_size, default=1) < 1 or (self.rounds is not None and self.rounds < 1):
            raise ConfigError("--batch_size and --rounds must be at least 1")
        if len(self.batch_size) > 1 and len(self.batch_size) != len(self.cases):
            raise ConfigError("--batch_size: give one number, or one for each of --cases")
        if self.rungs != "all" and not self.ladder:
            raise ConfigError("--rungs needs --ladder")
        if self.folder is not None and self.data is None:
            raise ConfigError(
                "--folder is for the plain pipeline: give ours the same images by --data"
            )

    @property
    def where(self) -> torch.device:
        """The device to measure on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    @property
    def chosen(self) -> list[TrainCase]:
        """The cases to measure."""
        known = SMOKE_CASES if self.smoke else CASES
        names = self.cases or default_cases(self.where, self.smoke)
        sizes = self.batch_size or (None,)
        if len(sizes) == 1:
            sizes *= len(names)
        return [self._changed(known[name], size) for name, size in zip(names, sizes, strict=True)]

    def _changed(self, case: TrainCase, batch_size: int | None) -> TrainCase:
        asked = {"batch": batch_size, "rounds": self.rounds}
        changes = {
            f"{name}_{kind}": value
            for name, value in asked.items()
            for kind in ("cuda", "cpu")
            if value is not None
        }
        return dataclasses.replace(case, **changes)

    @property
    def workers(self) -> int:
        """Threads or processes of a loader."""
        return worker_count(self.num_workers)


@command(PROG)
@closed_early_is_fine()
def main(argv: Sequence[str]) -> int:
    """Return 0 if all went well, 1 if a case failed, 2 for wrong flags or data."""
    options = parse(PROG, TrainBenchOptions, argv)
    device = options.where
    parts = {"gemm": {}, "results": [], "ladder": [], "failed": {}}
    report = BenchmarkReport(device, PROG, argv, options.out, **parts)
    torch.backends.cudnn.benchmark = True  # as MAE's script does
    report.keep()
    report["gemm"] = measure_square(device, 256 if options.smoke else None)
    for name, key, part in _parts(options, max(report["gemm"].values())):
        log_progress(name)
        earlier = report[key]
        try:
            for rows in part():
                report[key] = [*earlier, *rows]
                report.keep()
        except Exception:
            report["failed"][name] = traceback.format_exc(limit=6)
        report.keep()
        if options.out:
            plot(report, options.out.with_suffix(".png"))
    report.finish()
    print(markdown(report))
    return int(bool(report["failed"]))


def _parts(options: TrainBenchOptions, peak: float) -> list[tuple[str, str, Part]]:
    """List what to measure: a name, a key in the report, and the measurement."""
    device = options.where
    known = main_variants(device, compiled=options.compile)
    variants = {name: known[name] for name in known if name in (options.variants or known)}
    parts: list[tuple[str, str, Part]] = []
    for case in options.chosen:
        of_case = {n: v for n, v in variants.items() if case.has_plain or n == "fastimae"}
        if options.table:
            steps = partial(measure_case, case, of_case, device, peak)
            parts.append((case.name, "results", steps))
        if options.data is not None:
            fed_variants = {name: of_case[name] for name in FED if name in of_case}
            fed = partial(
                measure_fed, case, fed_variants, device, peak, beton=options.data,
                folder=options.folder, num_workers=options.workers, seconds=options.seconds,
            )  # fmt: skip
            parts.append((f"{case.name} fed", "results", fed))
        if options.ladder and case.has_plain and (case.ladder or not options.table):
            chosen = newest if options.rungs == "new" else ladder
            rungs = partial(measure_case, case, chosen(case, device), device, peak, share=True)
            parts.append((f"ladder {case.name}", "ladder", rungs))
    return parts


if __name__ == "__main__":
    sys.exit(main())
