"""Each op against eager torch and torch.compile: `python -m benchmarks.kernels --out F.json`.

Every variant first has to match the specification, forward and gradients. Then they take turns, on
a GPU as replayed graphs. A row has milliseconds, GB/s of the bytes that a perfect kernel would
move, and that as a share of what a plain copy reaches in the same run. Most inputs are far larger
than the L2 cache; where they are not, calls rotate among several sets of them. Exits with 1 if a
variant is wrong or fails; a speed is never a failure.
"""

from __future__ import annotations

import argparse
import gc
import traceback
from collections.abc import Sequence

import torch

from benchmarks.harness import BenchmarkReport, usual_parser
from benchmarks.kernels.cases import cases
from benchmarks.kernels.measure import COPY_BYTES, Row, measure, measure_copy
from benchmarks.kernels.shapes import SHAPES, SMOKE_SHAPES, ModelShape
from benchmarks.kernels.tables import markdown
from benchmarks.kernels.traffic import our_bytes, plain_bytes
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.kernels"


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Return 0 if every variant of every op gives the correct results."""
    options = parser().parse_args(argv)
    device = torch.device(options.device)
    shapes = SMOKE_SHAPES if options.smoke else SHAPES
    parts = {"rows": [], "traffic": [], "failed": {}}
    report = BenchmarkReport(device, PROG, argv, options.out, page=markdown, **parts)
    report.keep()
    measure_all(report, device, shapes, only=options.only, compiled=not options.no_compile)
    report["traffic"] = measure_traffic(shapes)
    report.finish()
    print(markdown(report))
    return int(bool(report["failed"]))


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = usual_parser(PROG, __doc__)
    made.add_argument("--only", default="", help="only cases with this text in 'op shape'")
    made.add_argument("--no-compile", action="store_true", help="without torch.compile")
    return made


def measure_all(
    report: BenchmarkReport,
    device: torch.device,
    shapes: Sequence[ModelShape],
    *,
    only: str = "",
    compiled: bool = True,
) -> None:
    """Measure the cases into the report: their rows, and tracebacks of those that failed.

    The report is kept after each pass of each op.
    """
    copy_rate = measure_copy(device, COPY_BYTES if device.type == "cuda" else 2**22)
    report["rows"].append({"op": "copy", "GB/s": copy_rate / 1e9, "of copy": 1.0})
    report.keep()
    for case in [case for shape in shapes for case in cases(shape)]:
        name = f"{case.op} {case.shape}"
        if only not in name:
            continue
        try:
            for rows in measure(case, device, copy_rate, compiled=compiled):
                report["rows"] += rows
                report.keep()
        except Exception:
            report["failed"][name] = traceback.format_exc(limit=3)
        report.keep()
        gc.collect()
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure_traffic(shapes: Sequence[ModelShape]) -> list[Row]:
    """Compute MB per mixture outside of blocks and products, for the plain pipeline and ours."""
    pairs = [(shape.name, plain_bytes(shape), our_bytes(shape)) for shape in shapes]
    return [
        {"shape": name, "plain MB": plain / 1e6, "ours MB": ours / 1e6, "times": plain / ours}
        for name, plain, ours in pairs
    ]


if __name__ == "__main__":
    raise SystemExit(main())
