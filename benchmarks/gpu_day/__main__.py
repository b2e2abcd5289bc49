"""Runs the parts of a GPU day, and keeps results: `python -m benchmarks.gpu_day 1|2|3|4 --out DIR`.

`benchmarks/gpu_day.sh` calls it after installing what the machine lacks. Exits with 1 if a part
failed; a speed is never a failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_day.kit import find_images, measured_commit
from benchmarks.gpu_day.plan import RUNS, SECONDS, START, DaySettings, Stage, stages
from benchmarks.gpu_day.processes import run_parts
from benchmarks.gpu_day.summary import brief, markdown
from benchmarks.harness import ROOT, BenchmarkReport, log_progress, write_whole
from fastimae.flags import OnceParser
from fastimae.streams import closed_early_is_fine

PROG = "benchmarks/gpu_day.sh"
WORK = Path("build/gpu_day")
"""Folder in the repository that parts write to; git ignores it."""
STOPPED = 143
"""Exit status of a program that a signal ended."""


@closed_early_is_fine()
def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if all parts ended well and in time."""
    options = _parser().parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device: --smoke --device cpu rehearses without one")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(STOPPED))  # ends what it started, too
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(ROOT / WORK, ignore_errors=True)
    (ROOT / WORK).mkdir(parents=True)
    settings = DaySettings(
        folder=WORK, device=options.device, smoke=options.smoke, tests=tuple(options.tests)
    )
    kit = Path(os.environ.get("FASTIMAE_KIT", ".gpu"))
    if options.run > 1:
        settings = dataclasses.replace(settings, **find_images(kit, WORK))
    os.environ["FASTIMAE_COMMIT"] = measured_commit(kit)
    report = BenchmarkReport(
        torch.device(options.device), PROG, [str(options.run), *["--smoke"] * options.smoke],
        options.out / f"gpu_day_{options.run}.json", run=options.run, parts={},
        page=lambda report: markdown(report, options.out),
    )  # fmt: skip
    plan = chosen(stages(options.run, settings), options.only)
    run_stages(plan, report, options.out, options.seconds - options.spent - START)
    report.finish()
    print(brief(report, options.out))
    return int(any(part["status"] != "ok" for part in report["parts"].values()))


def _parser() -> argparse.ArgumentParser:
    parser = OnceParser(prog=PROG, description=__doc__)
    parser.add_argument("run", type=int, choices=tuple(RUNS), help="which run: see plan.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="limit for all parts; the last are cut"
    )
    parser.add_argument(
        "--spent", type=float, default=0, help="seconds of that limit that were spent before"
    )
    parser.add_argument("--only", default="", help="only parts with this text in their name")
    parser.add_argument(
        "--tests", nargs="*", default=(), help="tests for pytest, instead of the run's"
    )
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to rehearse")
    return parser


def chosen(plan: Sequence[Stage], only: str) -> list[Stage]:
    """Choose the parts with `only` in their name. Raises SystemExit if there are none."""
    found = [
        Stage(stage.seconds, tuple(part for part in stage.parts if only in part.name))
        for stage in plan
    ]
    if not any(stage.parts for stage in found):
        names = ", ".join(part.name for stage in plan for part in stage.parts)
        raise SystemExit(f"--only {only}: the parts are {names}")
    return [stage for stage in found if stage.parts]


def run_stages(plan: Sequence[Stage], report: BenchmarkReport, out: Path, seconds: float) -> None:
    """Run the stages one after the other, and note in `report` how each part ended.

    Files of parts are copied from WORK to `out` while they run, and the report is written after
    each stage, so that a kill loses nothing that was measured.
    """
    for part in (part for stage in plan for part in stage.parts if part.file):
        (out / Path(part.file).name).unlink(missing_ok=True)  # from an earlier run
    begin, granted = time.monotonic(), 0.0
    for stage in plan:
        granted += stage.seconds
        deadline = begin + min(granted, seconds)
        had = max(deadline - time.monotonic(), 0.0)
        names = ", ".join(part.name for part in stage.parts)
        log_progress(f"{names}: {had:.0f} s")
        found = run_parts(stage.parts, ROOT / WORK, deadline, lambda s=stage: keep(s, out))
        keep(stage, out)
        for part in stage.parts:
            report["parts"][part.name] = {
                "had": round(had),
                "command": shlex.join(["python", *part.command[1:]]),
                "file": part.file,
                **dataclasses.asdict(found[part.name]),
            }
        report.keep()


def keep(stage: Stage, out: Path) -> None:
    """Copy the files that the stage's parts have written so far."""
    for part in stage.parts:
        source, target = ROOT / WORK / part.file, out / Path(part.file).name
        if part.file and source.exists():
            now = source.stat().st_mtime_ns
            if not target.exists() or target.stat().st_mtime_ns != now:
                write_whole(target, source.read_text(errors="replace"))
                os.utime(target, ns=(now, now))


if __name__ == "__main__":
    sys.exit(main())
