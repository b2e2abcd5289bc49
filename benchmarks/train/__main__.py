"""`python -m benchmarks.train`: cases, variants, ladder, tables."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.gemm import measure_square
from benchmarks.harness import conditions, write_json
from benchmarks.train.fed import measure_fed
from benchmarks.train.measure import Row, measure_case
from benchmarks.train.options import Options
from benchmarks.train.plot import plot
from benchmarks.train.tables import markdown
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
    report = conditions(device, f"{PROG} {shlex.join(argv)}")
    torch.backends.cudnn.benchmark = True  # as MAE's script does
    report |= {"complete": False, "gemm": {}, "results": [], "ladder": [], "failed": {}}
    write_json(options.out, report)
    report["gemm"] = measure_square(device, 256 if options.smoke else None)
    for name, key, part in _parts(options, max(report["gemm"].values())):
        print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
        earlier = report[key]
        try:
            for rows in part():
                report[key] = [*earlier, *rows]
                write_json(options.out, report)
        except Exception:
            report["failed"][name] = traceback.format_exc(limit=6)
        write_json(options.out, report)
        if options.out:
            plot(report, options.out.with_suffix(".png"))
    report["complete"] = True
    write_json(options.out, report)
    print(markdown(report))
    return int(bool(report["failed"]))


def _parts(options: Options, peak: float) -> list[tuple[str, str, Part]]:
    """What to measure: its name, its key in the report, and how."""
    device = options.where
    ways = contestants(device, compiled=options.compile)
    ways = {name: way for name, way in ways.items() if name in (options.variants or ways)}
    parts: list[tuple[str, str, Part]] = []
    for case in options.chosen:

        def steps(case=case) -> Iterator[list[Row]]:
            return measure_case(case, ways, device, peak)

        def fed(case=case) -> Iterator[list[Row]]:
            return measure_fed(
                case, {name: ways[name] for name in FED if name in ways}, device, peak,
                beton=options.data, folder=options.folder, num_workers=options.workers,
                seconds=options.seconds,
            )  # fmt: skip

        def rungs(case=case) -> Iterator[list[Row]]:
            return measure_case(case, ladder(case, device), device, peak, share=True)

        if options.table:
            parts.append((case.name, "results", steps))
        if options.data is not None:
            parts.append((f"{case.name} fed", "results", fed))
        if options.ladder and (case.ladder or not options.table):
            parts.append((f"ladder {case.name}", "ladder", rungs))
    return parts


if __name__ == "__main__":
    sys.exit(main())
