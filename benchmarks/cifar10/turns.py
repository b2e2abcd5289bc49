"""Who is next: trainings in equal epochs, teachers first, then evaluations, until the time ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.cifar10.jobs import Job
from benchmarks.cifar10.pace import Distance, Pace, common_level, reserve, started_in
from benchmarks.cifar10.plan import Plan, Take
from benchmarks.cifar10.processes import Stop, Watched
from benchmarks.cifar10.progress import epochs_trained, forget, is_current
from benchmarks.harness import log_progress

LATE = 1.2
"""A slice of training is stopped when it takes so many times what it should."""


class Turns:
    """Divides a time over the runs of a plan."""

    def __init__(self, jobs: Sequence[Job], plan: Plan, until: float, take: Take) -> None:
        """until: when to stop, of time.monotonic. take: runs a job until it is to stop."""
        self.jobs, self.paces, self.until, self.take = jobs, plan.paces, until, take
        self.by_name = {job.run.name: job for job in jobs}
        self.teachers = {name for job in jobs if job.trains for name in job.run.needs}

    def run(self) -> None:
        """Train, evaluate in time that was kept for it, and train in what is left."""
        evaluations = [job for job in self.evaluations() if self._within_reach(job)]
        of_evaluations = sum(self.paces[job.kind].seconds(job.epochs) for job in evaluations)
        of_training = sum(self._distance(job).seconds(job.epochs) for job in self.waiting())
        self.train(self.until - reserve(of_evaluations, of_training, self._left(self.until)))
        self.evaluate()
        self.train(self.until)

    def train(self, until: float) -> None:
        """Bring all trainings to the same epochs, as many as there is time for.

        Teachers come first, and to their end: others learn from their last weights.
        """
        for teachers in (True, False):
            waiting = [job for job in self.waiting() if (job.run.name in self.teachers) == teachers]
            waiting.sort(key=lambda job: self._distance(job).trained)
            if waiting:
                del waiting[started_in([*map(self._distance, waiting)], self._left(until)) :]
            while waiting and all(self._done(name) for name in waiting[0].run.needs):
                level = common_level([*map(self._distance, waiting)], self._left(until))
                self._slice(waiting.pop(0), level, until)

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
        return [job for job in self.jobs if job.trains and not job.run.done()]

    def evaluations(self) -> list[Job]:
        """Return the evaluations that are missing, or of weights that are no longer the last."""
        return [
            job for job in self.jobs
            if not job.trains
            and not (job.run.done() and self._has_models(job) and is_current(job))
        ]  # fmt: skip

    def _slice(self, job: Job, level: float, until: float) -> None:
        """Train a job to a level of epochs, or for the time that this should take."""
        distance = self._distance(job)
        seconds = min(self._left(until), LATE * distance.seconds(level))
        whole = int(level) - int(distance.trained)
        if level <= distance.trained or seconds <= distance.pace.fixed:
            return
        self._take(job, lambda seen: seen.seconds > seconds or 0 < whole <= len(seen.times))

    def _take(self, job: Job, stop: Stop) -> Watched:
        seen = self.take(job, stop)
        trained = f", {epochs_trained(job.run.folder):.4g} of {job.epochs}" if job.trains else ""
        log_progress(f"{job.run.name}: {seen.seconds:.0f} s{trained}")
        if job.trains and len(seen.times) > 2:
            self.paces[job.kind] = Pace(self.paces[job.kind].fixed, seen.pace.epoch)
        return seen

    def _distance(self, job: Job) -> Distance:
        return Distance(epochs_trained(job.run.folder), job.epochs, self.paces[job.kind])

    def _left(self, until: float) -> float:
        return until - time.monotonic()

    def _done(self, name: str) -> bool:
        return self.by_name[name].run.done()

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
