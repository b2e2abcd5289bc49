"""`python -m benchmarks.gpu_day 1|2|3 --out DIR`: run the parts, keep what they leave.

`benchmarks/gpu_day.sh` calls it, once what the machine lacks is in place. Exits with 1 if a part
failed; a speed is never a failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_day.commit import measured_commit
from benchmarks.gpu_day.images import find_images
from benchmarks.gpu_day.plan import SECONDS, START, Settings, Stage, stages
from benchmarks.gpu_day.processes import run_parts
from benchmarks.gpu_day.summary import brief, markdown
from benchmarks.harness import ROOT, conditions, write_json

PROG = "benchmarks/gpu_day.sh"
WORK = Path("build/gpu_day")
"""Where parts write, in the repository, where git ignores it."""


def main(argv: Sequence[str] | None = None) -> int:
    """0 if all parts ended well and in time."""
    options = _parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(ROOT / WORK, ignore_errors=True)
    (ROOT / WORK).mkdir(parents=True)
    settings = Settings(
        folder=WORK, device=options.device, smoke=options.smoke, tests=tuple(options.tests)
    )
    if options.run > 1:
        settings = dataclasses.replace(settings, **find_images(options.kit, WORK))
    os.environ["FASTIMAE_COMMIT"] = measured_commit(options.kit)
    command = f"{PROG} {options.run}{' --smoke' * options.smoke}"
    report = conditions(torch.device(options.device), command)
    report |= {"run": options.run, "parts": {}}
    plan = [
        Stage(stage.seconds, chosen)
        for stage in stages(options.run, settings)
        if (chosen := tuple(part for part in stage.parts if options.only in part.name))
    ]
    run_stages(plan, report, options.out, options.seconds - options.spent - START)
    print(brief(report, options.out))
    return int(any(part["status"] != "ok" for part in report["parts"].values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("run", type=int, choices=(1, 2, 3), help="which parts: see plan.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--kit", type=Path, default=Path(".gpu"), help="what gpu_kit.py gathered")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all of it")
    parser.add_argument("--spent", type=float, default=0, help="of them, before this began")
    parser.add_argument("--only", default="", help="parts with this in their name")
    parser.add_argument("--tests", nargs="*", default=(), help="of pytest, instead of the run's")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, to rehearse")
    return parser


def run_stages(plan: Sequence[Stage], report: dict, out: Path, seconds: float) -> None:
    """Run the stages one after the other, and note how each part ended in `report`.

    What parts leave in WORK is copied to `out` while they run, and the report after each
    stage: whoever kills this loses nothing that was measured.
    """
    begin, granted = time.monotonic(), 0.0
    for stage in plan:
        granted += stage.seconds
        deadline = begin + min(granted, seconds)
        had = max(deadline - time.monotonic(), 0.0)
        names = ", ".join(part.name for part in stage.parts)
        print(f"{time.strftime('%H:%M:%S')} {names}: {had:.0f} s", file=sys.stderr, flush=True)
        found = run_parts(stage.parts, ROOT / WORK, deadline, lambda s=stage: keep(s, out))
        keep(stage, out)
        for part in stage.parts:
            report["parts"][part.name] = {
                "had": round(had),
                "command": shlex.join(["python", *part.command[1:]]),
                "file": part.file,
                **dataclasses.asdict(found[part.name]),
            }
        write(report, out)


def keep(stage: Stage, out: Path) -> None:
    """Copy what the stage's parts have left so far."""
    for part in stage.parts:
        source, target = ROOT / WORK / part.file, out / Path(part.file).name
        if part.file and source.exists():
            new = not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns
            if new:
                shutil.copy2(source, target)


def write(report: dict, out: Path) -> None:
    """The report for programs and for people."""
    write_json(out / f"gpu_day_{report['run']}.json", report)
    (out / f"gpu_day_{report['run']}.md").write_text(markdown(report, out))


if __name__ == "__main__":
    sys.exit(main())
