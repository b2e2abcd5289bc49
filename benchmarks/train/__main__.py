"""`python -m benchmarks.train`: cases, variants, ladder, tables."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from benchmarks.gemm import measure_square
from benchmarks.harness import Report, say
from benchmarks.train.fed import measure_fed
from benchmarks.train.measure import Row, measure_case
from benchmarks.train.options import Options
from benchmarks.train.tables import markdown, plot
from benchmarks.train.variants import contestants, ladder
from fastimae.arguments import command, parse

PROG = "python -m benchmarks.train"
FED = ("reference", "fastimae")
Part = Callable[[], Iterator[list[Row]]]
"""Measures; yields its rows so far, whenever there are more of them or more rounds."""


@command(PROG)
def main(argv: Sequence[str]) -> int:
    """0 if all went well, 1 if a case failed, 2 for errors in the command line or the data."""
    options = parse(PROG, Options, argv)
    device = options.where
    parts = {"gemm": {}, "results": [], "ladder": [], "failed": {}}
    report = Report(device, PROG, argv, options.out, **parts)
    torch.backends.cudnn.benchmark = True  # as MAE's script does
    report.keep()
    report["gemm"] = measure_square(device, 256 if options.smoke else None)
    for name, key, part in _parts(options, max(report["gemm"].values())):
        say(name)
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


def _parts(options: Options, peak: float) -> list[tuple[str, str, Part]]:
    """What to measure: its name, its key in the report, and how."""
    device = options.where
    ways = contestants(device, compiled=options.compile)
    ways = {name: way for name, way in ways.items() if name in (options.variants or ways)}
    parts: list[tuple[str, str, Part]] = []
    for case in options.chosen:
        if options.table:
            steps = partial(measure_case, case, ways, device, peak)
            parts.append((case.name, "results", steps))
        if options.data is not None:
            fed = partial(
                measure_fed, case, {name: ways[name] for name in FED if name in ways}, device, peak,
                beton=options.data, folder=options.folder, num_workers=options.workers,
                seconds=options.seconds,
            )  # fmt: skip
            parts.append((f"{case.name} fed", "results", fed))
        if options.ladder and (case.ladder or not options.table):
            rungs = partial(measure_case, case, ladder(case, device), device, peak, share=True)
            parts.append((f"ladder {case.name}", "ladder", rungs))
    return parts


if __name__ == "__main__":
    sys.exit(main())
