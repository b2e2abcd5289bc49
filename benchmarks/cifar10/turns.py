"""Who is next: trainings in equal epochs, teachers first, then evaluations, until the time ends."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from benchmarks.cifar10.jobs import Job
from benchmarks.cifar10.pace import Distance, Pace, common_level, highest_level, reserve, started_in
from benchmarks.cifar10.plan import Plan, Take
from benchmarks.cifar10.processes import Stop, Watched
from benchmarks.cifar10.progress import epochs_trained, forget, is_current
from benchmarks.harness import log_progress
from fastimae.settings import ConfigError

LATE = 1.2
"""A slice of training is stopped when it takes so many times what it should."""


class Turns:
    """Divides a time over the runs of a plan."""

    def __init__(self, jobs: Sequence[Job], plan: Plan, until: float, take: Take) -> None:
        """until: when to stop, of time.monotonic. take: runs a job until it is to stop."""
        self.jobs, self.paces, self.until, self.take = jobs, plan.paces, until, take
        self.by_name = {job.run.name: job for job in jobs}
        self.teachers = {name for job in jobs if job.trains for name in job.run.needs}
        self.taken = 0
        """Runs that were begun or went on."""

    def run(self) -> None:
        """Train, evaluate in the time that was kept for it, and do the same in what is left.

        Raises ConfigError if there is no time for anything: the same command would not go on.
        """
        evaluations = [job for job in self.evaluations() if self._within_reach(job)]
        of_evaluations = sum(self.paces[job.kind].seconds(job.epochs) for job in evaluations)
        of_training = sum(self._distance(job).seconds(job.epochs) for job in self.waiting())
        self.train(self.until - reserve(of_evaluations, of_training, self._left(self.until)))
        self.evaluate()
        self.train(self.until, some=False)
        self.evaluate()
        if not self.taken and (left := [*self.waiting(), *self.evaluations()]):
            least = min(self.paces[job.kind].fixed for job in left)
            raise ConfigError(
                "--minutes: too short for any run, of which the quickest takes "
                f"{least:.0f} s to start and to end: more minutes"
            )

    def train(self, until: float, *, some: bool = True) -> None:
        """Bring all trainings to the same epochs, as many as there is time for.

        Teachers come first, and to their end: others learn from their last weights. If a round
        leaves time, because the machine is faster than it was, there is another one for all.
        some: if there is no time for all of them, let those go on that have the fewest epochs.
        """
        for teachers in (True, False):
            partly = some
            while ready := self._ready(teachers):
                distances = [*map(self._distance, ready)]
                count = started_in(distances, self._left(until))
                if not count or (count < len(ready) and not partly):
                    break
                self._round(ready[:count], highest_level(distances, count), until)
                partly = False

    def evaluate(self) -> None:
        """Evaluate finished models, whose numbers stay, then others, if there is time for all."""
        for job in sorted(self.evaluations(), key=self._rank):
            seconds, left = self.paces[job.kind].seconds(job.epochs), self._left(self.until)
            goes_on = self._is_final(job) and job.epochs > 0
            if self._has_models(job) and left > (
                self.paces[job.kind].fixed if goes_on else seconds
            ):
                if not is_current(job):
                    forget(job)
                self._take(job, lambda _: self._left(self.until) <= 0)

    def waiting(self) -> list[Job]:
        """Return the trainings that are not at their end."""
        return [job for job in self.jobs if job.trains and not self._done(job.run.name)]

    def evaluations(self) -> list[Job]:
        """Return the evaluations that are missing, or of weights that are no longer the last."""
        return [
            job for job in self.jobs
            if not job.trains
            and not (job.run.done() and self._has_models(job) and is_current(job))
        ]  # fmt: skip

    def _round(self, jobs: list[Job], level: float, until: float) -> None:
        """Train each job once, to a common level: a lower one if those before took too long."""
        while jobs:
            level = min(level, common_level([*map(self._distance, jobs)], self._left(until)))
            self._slice(jobs.pop(0), level, until)

    def _slice(self, job: Job, level: float, until: float) -> None:
        """Train a job to a level of epochs; unless it is a teacher, for as long as that should
        take."""
        distance = self._distance(job)
        late = math.inf if job.run.name in self.teachers else LATE
        seconds = min(self._left(until), late * distance.seconds(level))
        whole = int(level) - int(distance.trained) if level < job.epochs else math.inf
        if level > distance.trained and seconds > distance.pace.fixed:
            self._take(job, lambda seen: seen.seconds > seconds or 0 < whole <= len(seen.times))

    def _take(self, job: Job, stop: Stop) -> Watched:
        self.taken += 1
        seen = self.take(job, stop)
        trained = f", {epochs_trained(job.run.folder):.4g} of {job.epochs}" if job.trains else ""
        log_progress(f"{job.run.name}: {seen.seconds:.0f} s{trained}")
        if job.trains and len(seen.times) > 2:
            self.paces[job.kind] = Pace(self.paces[job.kind].fixed, seen.pace.epoch)
        return seen

    def _ready(self, teachers: bool) -> list[Job]:
        """Return the trainings that can go on, of teachers or others: the least trained first."""
        ready = [
            job for job in self.waiting()
            if (job.run.name in self.teachers) == teachers and all(map(self._done, job.run.needs))
        ]  # fmt: skip
        return sorted(ready, key=lambda job: self._distance(job).trained)

    def _distance(self, job: Job) -> Distance:
        return Distance(epochs_trained(job.run.folder), job.epochs, self.paces[job.kind])

    def _left(self, until: float) -> float:
        return until - time.monotonic()

    def _done(self, name: str) -> bool:
        """Return whether a pre-training is at its end. Its `done` reads the file each time."""
        job = self.by_name[name]
        return epochs_trained(job.run.folder) >= job.epochs

    def _is_final(self, job: Job) -> bool:
        return all(map(self._done, job.run.needs))

    def _has_models(self, job: Job) -> bool:
        return all(epochs_trained(self.by_name[name].run.folder) for name in job.run.needs)

    def _within_reach(self, job: Job) -> bool:
        """Return whether an evaluation's models are trained before others need a teacher's end."""
        early = all(map(self._done, self.teachers))
        return early or all(name in self.teachers for name in job.run.needs)

    def _rank(self, job: Job) -> tuple[bool, float]:
        return not self._is_final(job), self.paces[job.kind].seconds(job.epochs)
