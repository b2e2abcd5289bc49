"""--profile: a trace of what the host and the GPU do in a few steps."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from fastimae.best_effort import best_effort
from fastimae.folders import write_text
from fastimae.log import log

FIRST, LAST = 20, 30
_ROWS = 30


class Profile:
    """Records steps FIRST to LAST of a process, after those that compile and warm up."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.steps = 0
        self.profiler: profile | None = None

    def steps_left(self) -> int:
        """Return how many steps to take at most before the next call of `step`."""
        return next((n - self.steps for n in (FIRST - 1, LAST) if n > self.steps), sys.maxsize)

    def step(self, count: int = 1) -> None:
        """Call after steps: `count` of them, at most `steps_left`."""
        self.steps += count
        if self.steps == FIRST - 1:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self.profiler = profile(activities=activities)
            self.profiler.start()
        elif self.steps == LAST:
            self.close()

    def close(self) -> None:
        """Write the trace, if any, to profile-rank0.json.gz, and a table to profile-rank0.txt."""
        if self.profiler is None:
            if self.steps < FIRST:
                log.warning(
                    "--profile records steps %d to %d: there were %d", FIRST, LAST, self.steps
                )
            return
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        path = self.folder / f"profile-rank{self.rank}.json.gz"
        with best_effort(path, RuntimeError):
            profiler.export_chrome_trace(str(path))
            order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            table = profiler.key_averages().table(sort_by=order, row_limit=_ROWS)
            write_text(path.with_name(f"profile-rank{self.rank}.txt"), table + "\n")
            log.info("profile: %s (open it at ui.perfetto.dev), and as a table beside it", path)
