"""i-MAE's tables on CIFAR-10, in minutes or in full: `python -m benchmarks.cifar10 --help`.

Runs the shipped studies, which are the paper's protocol, in one folder.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
import tyro

from benchmarks.cifar10.jobs import Asked, Job, commands_of, jobs_of
from benchmarks.cifar10.pace import FULL
from benchmarks.cifar10.plan import Plan, Take, make_plan, read_plan
from benchmarks.cifar10.processes import GRACE, Stop, Watched, run_for_some_time, warm_up
from benchmarks.cifar10.progress import forget, is_current
from benchmarks.cifar10.tables import markdown, results
from benchmarks.cifar10.turns import Turns
from benchmarks.harness import BenchmarkReport, log_progress, page
from fastimae.arguments import command, parse
from fastimae.engine.output_folders import claim_folders
from fastimae.engine.signals import sigterm_as_ctrl_c
from fastimae.evaluate.studies.runs import check_same
from fastimae.settings import PositiveFloat, PositiveInt, Settings
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.cifar10"
END_SECONDS = GRACE + 1
"""Of --minutes, for a command to save and stop, and for the tables."""


@dataclasses.dataclass(kw_only=True)
class CifarOptions(Settings):
    """Make i-MAE's tables 1 to 4 on CIFAR-10; repeat the command to go on.

    python -m benchmarks.cifar10 --ffcv cifar10.beton --val val.beton --runs runs --minutes 10
    """

    train_flags: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="-- FLAGS OF fastimae-train")]
    ] = ()
    """Flags for every pre-training, such as -- --batch_size 4096 --accum_iter 1."""
    ffcv: Path
    """Training images, a .beton file."""
    val: Path
    """Test images, a .beton file."""
    runs: Path
    """Folder of all runs: that of `fastimae-eval study`, which can go on with them."""
    minutes: PositiveFloat | None = None
    """Stop after so many minutes, with tables of what there is. None: run all to the end."""
    epochs: PositiveInt | None = None
    """Epochs of each pre-training. None: as many as fit into --minutes; without it, the paper's
    2,000. Evaluations are shorter by the same factor."""
    tables: tuple[Literal[1, 2, 3, 4], ...] = (1, 2, 3, 4)
    """Tables to make."""
    set: tuple[str, ...] = ()
    """Changes of the studies that have such a part: --set evaluations.finetune.precision=fp32."""
    out: Path | None = None
    """JSON file for the tables; a page is written beside it."""
    debug: bool = False
    """Show tracebacks."""


@command(PROG)
@closed_early_is_fine()
def main(argv: Sequence[str]) -> int:
    """Return 0 also if the time ended first: the report is "complete" once all runs are done."""
    begin = time.monotonic() - (time.time() - psutil.Process().create_time())  # imports count
    options = parse(PROG, CifarOptions, argv)
    options.check()
    asked = Asked(
        options.ffcv, options.val, options.runs, options.tables, options.train_flags,
        options.set,
    )  # fmt: skip
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    report = BenchmarkReport(
        device, PROG, argv, options.out, page=lambda made: page(made, markdown(made))
    )
    until = begin + 60 * options.minutes - END_SECONDS if options.minutes else math.inf
    with claim_folders(options.runs), sigterm_as_ctrl_c():
        warm_up()
        plan = _plan(asked, options, until)
        studies = commands_of(asked, plan.epochs, plan.train)
        jobs = jobs_of(studies)
        for job in jobs:  # finished ones, too: the tables have the flags of this call
            check_same(job.run)

        def take(job: Job, stop: Stop) -> Watched:
            seen = run_for_some_time(job, stop)
            report.update(results(studies, jobs, plan.epochs))
            report.keep()
            return seen

        try:
            if options.minutes:
                _in_time(jobs, plan, until, options.runs, take)
            else:
                _to_the_end(jobs, take)
        finally:  # what there is stands in the tables, after Ctrl-C and errors, too
            report |= results(studies, jobs, plan.epochs)
            _finish(report, jobs)
    return 0


def _finish(report: BenchmarkReport, jobs: Sequence[Job]) -> None:
    """Print the tables, and keep them; say whether there is more to do."""
    done = sum(job.run.done() for job in jobs)
    report["complete"] = done == len(jobs)
    report.keep()
    print(markdown(report), flush=True)
    more = "" if report["complete"] else ": run the same command to go on"
    log_progress(f"{done} of {len(jobs)} runs are at their end{more}")


def _plan(asked: Asked, options: CifarOptions, until: float) -> Plan:
    plan = read_plan(asked.runs, options.epochs)
    if plan is None and options.minutes:
        plan = make_plan(asked, options.epochs, until, run_for_some_time)
        plan.keep(asked.runs)
    return plan or Plan(epochs=options.epochs or FULL)


def _in_time(jobs: Sequence[Job], plan: Plan, until: float, folder: Path, take: Take) -> None:
    """Run what fits into the time until `until`, of time.monotonic."""
    try:
        Turns(jobs, plan, until, take).run()
    finally:
        plan.keep(folder)


def _to_the_end(jobs: Sequence[Job], take: Take) -> None:
    """Run all to the end, after checking all commands: the last one starts days later."""
    for job in jobs:
        if not job.run.done():
            job.run.check()
    for job in jobs:
        if not job.trains and not is_current(job):
            forget(job)
        take(job, lambda _: False)
        if not job.run.done():  # a signal has stopped it
            return


if __name__ == "__main__":
    sys.exit(main())
