"""What `fastimae.accelerate` does for each habit of the field: `python -m benchmarks.accelerate`.

For each class of models, a training step (forward, backward, AdamW) of the model as it is and of
its accelerated copy, in turns, in one process. Before that, one step of both with the same weights
and random numbers: the largest differences of the loss and of gradients.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

import fastimae
from benchmarks.habits import HABITS, SMALL, TINY, Habit
from benchmarks.harness import BenchmarkReport, log_progress, number, table, usual_parser
from benchmarks.timing import Timing, interleaved
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.accelerate"
BATCH = {"cpu": 8, "cuda": 64}
PRECISIONS = ("fp32", "bf16")
"""bf16: under autocast, with weights in fp32."""
Row = dict[str, object]


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Measure all model classes; the report is kept after each."""
    parser = usual_parser(PROG, __doc__)
    parser.add_argument("--models", nargs="+", choices=HABITS, default=[*HABITS], metavar="NAME")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each")
    parser.add_argument("--batch_size", type=int, help="images per step; default 8, on CUDA 64")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    batch = options.batch_size or BATCH[device.type]
    report = BenchmarkReport(device, PROG, argv, options.out, accelerated=[], batch_size=batch)
    size = TINY if options.smoke else SMALL
    for name in options.models:
        for precision in options.precision:
            log_progress(f"{name}, {precision}")
            bench = Bench(HABITS[name], size, batch, device, precision == "bf16")
            report["accelerated"].append({"precision": precision, **bench.row(options.steps)})
            report.keep()
    report.finish()
    print(markdown(report))
    return 0


class Bench:
    """A model and its accelerated copy, with the same images."""

    def __init__(self, habit: Habit, size, batch: int, device: torch.device, autocast: bool) -> None:
        torch.manual_seed(0)
        self.habit, self.device, self.autocast = habit, device, autocast
        self.before = habit.build(size).to(device).train()
        self.imgs = torch.randn(batch, habit.channels, size.img_size, size.img_size, device=device)
        with self._precision():
            self.after = fastimae.accelerate(copy.deepcopy(self.before))
