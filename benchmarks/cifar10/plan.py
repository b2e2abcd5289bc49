"""The plan of a folder of runs: its epochs, kept in a file, and the pace of each kind of run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cifar10.jobs import Asked, Job, commands_of, jobs_of
from benchmarks.cifar10.pace import FULL, Pace, choose_epochs
from benchmarks.cifar10.processes import Stop, Watched
from benchmarks.harness import log_progress
from fastimae.folders import write_text
from fastimae.settings import ConfigError

FILE, MEASURED = "plan.json", "pace"
"""The plan's file, and the folder of the runs that are measured, in --runs."""
MEASURED_EPOCHS, MEASURED_SECONDS = 40, 4.0
"""Runs to measure are of this length, with 2 epochs of fine-tuning; those that pre-train are
stopped after so many seconds of two epochs or more."""
KEPT_SECONDS = 5
"""State is kept about as often."""
USED = 0.9
"""Share of the time that the epochs are chosen for."""
Take = Callable[[Job, Stop], Watched]


@dataclasses.dataclass(kw_only=True)
class Plan:
    """How long the runs of a folder are: of all calls of the benchmark."""

    epochs: int
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of pre-training that do not change what is learned."""
    paces: dict[str, Pace] = dataclasses.field(default_factory=dict)
    """By kind of run; newer ones replace those of earlier calls."""

    def jobs(self, asked: Asked) -> list[Job]:
        """Return the runs."""
        return jobs_of(commands_of(asked, self.epochs, self.train))

    def keep(self, folder: Path) -> None:
        """Write the plan to its file."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read_plan(folder: Path, epochs: int | None) -> Plan | None:
    """Return the plan in a folder, None if there is none.

    epochs: those asked for. Raises ConfigError if they are others than the plan's.
    """
    if not (folder / FILE).is_file():
        return None
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    content["paces"] = {kind: Pace(*pace) for kind, pace in content["paces"].items()}
    plan = Plan(**content)
    if epochs not in (None, plan.epochs):
        raise ConfigError(
            f"--epochs {epochs}: the runs in {folder} have {plan.epochs}: leave it out, or choose "
            "another --runs"
        )
    return plan


def make_plan(asked: Asked, epochs: int | None, until: float, take: Take) -> Plan:
    """Measure the pace of each kind of run, and choose the epochs unless they are given.

    until: when all is to be done, of time.monotonic. Raises ConfigError if measuring takes more
    than half of the time.
    """
    begin = time.monotonic()
    paces = measured(asked, (begin + until) / 2, take)
    left = until - time.monotonic()
    full = [(job.epochs, paces[job.kind]) for job in Plan(epochs=FULL).jobs(asked)]
    epochs = epochs or choose_epochs(full, left * USED)
    log_progress(f"measured in {time.monotonic() - begin:.0f} s; {epochs} epochs of pre-training")
    return Plan(epochs=epochs, train=_saving(epochs), paces=paces)


def measured(asked: Asked, until: float, take: Take) -> dict[str, Pace]:
    """Run the first job of each kind for a short time; return paces."""
    asked = asked._replace(runs=asked.runs / MEASURED)
    shutil.rmtree(asked.runs, ignore_errors=True)
    paces: dict[str, Pace] = {}
    for job in Plan(epochs=MEASURED_EPOCHS, train=_saving(MEASURED_EPOCHS)).jobs(asked):
        if job.kind not in paces:
            seen = take(job, _measured_by(job, until))
            if time.monotonic() > until or (job.epochs and len(seen.times) < 2):
                raise ConfigError(_too_short(job))
            paces[job.kind] = seen.pace
            log_progress(f"{job.kind}: {seen.pace.fixed:.1f} s, {seen.pace.epoch:.3g} s per epoch")
    shutil.rmtree(asked.runs, ignore_errors=True)
    return paces


def _too_short(job: Job) -> str:
    fewer = (
        "-- --images 5000" if job.trains
        else f"--set evaluations.{job.run.name.partition('/')[2]}.label_fraction=0.1"
    )  # fmt: skip
    return (
        f"--minutes: half of them ended before two epochs of {job.kind} were timed here: "
        f"more minutes, a smaller model, as -- --model NAME, or fewer images, as {fewer}"
    )


def _measured_by(job: Job, until: float) -> Stop:
    def stop(seen: Watched) -> bool:
        times = seen.times
        enough = job.trains and len(times) > 1 and times[-1] - times[0] >= MEASURED_SECONDS
        return enough or time.monotonic() > until

    return stop


def _saving(epochs: int) -> dict[str, int]:
    """Return settings that keep state every few seconds, and no other files."""
    return {
        "save_seconds": KEPT_SECONDS, "save_freq": epochs, "checkpoint_hist": 1, "vis_freq": 0,
    }  # fmt: skip
