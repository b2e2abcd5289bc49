"""Training on small data: steps fed by `--cache device`, by our engine and by a DataLoader.

`python -m benchmarks.small_data` measures the same step in turns, in one run, and the loaders
alone. Without --data, pictures of CIFAR's size are made up.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu_day.kit import unpack
from benchmarks.harness import BenchmarkReport, log_progress, usual_parser
from benchmarks.loaders.usage import memory_bytes, settle
from benchmarks.pictures import made_up_beton
from benchmarks.small_data.tables import markdown
from benchmarks.small_data.turns import Turn, in_turns, loading, training
from benchmarks.small_data.ways import WAYS, Job, Opened
from benchmarks.train.cases import CASES, SMOKE_CASES, TrainCase, make_objective
from benchmarks.train.measure import free_memory, peak_memory
from fastimae.cpus import worker_count
from fastimae.flags import path_argument
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.small_data"
PICTURES, SIDE = 5000, 32
"""Made-up pictures, and their height and width."""
Row = dict[str, object]


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Measure all ways in turns; the report is kept after each round."""
    options = parser().parse_args(argv)
    device, case = torch.device(options.device), chosen_case(options)
    workers = worker_count(options.num_workers)
    report = BenchmarkReport(device, PROG, argv, options.out, small_data=[])
    report |= {"case": case.name, "model": case.model, "batch_size": case.batch_size(device)}
    report |= {"num_workers": workers}
    with tempfile.TemporaryDirectory(prefix="fastimae-small-") as scratch:
        beton, folder = images(options, Path(scratch))
        report["data"] = options.data.name if options.data else "made-up pictures"
        job = Job(
            beton=beton, folder=folder, side=case.img_size, batch_size=case.batch_size(device),
            num_workers=workers, device=device,
        )  # fmt: skip
        for rows in measured(job, case, options.rounds, options.seconds):
            report["small_data"] = rows
            report.keep()
    report.finish()
    print(markdown(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = usual_parser(PROG, __doc__)
    made.add_argument("--data", type=path_argument, help="a .beton file of JPEGs")
    made.add_argument(
        "--folder", type=path_argument, help="the same images as folders of classes; else unpacked"
    )
    made.add_argument("--objective", choices=("imae", "mae"), default="imae")
    made.add_argument("--batch_size", type=int, help="images per step; 1024 on a GPU, else 64")
    made.add_argument("--num_workers", type=int, help="threads or processes; by default all cores")
    made.add_argument("--rounds", type=int, default=3, help="timings of each way")
    made.add_argument("--seconds", type=float, default=3.0, help="of one timing, at least a step")
    return made


def chosen_case(options: argparse.Namespace) -> TrainCase:
    """Return the case to train: i-MAE or MAE, with a tiny model for 32 pixels."""
    case = SMOKE_CASES["imae_vit_nano_patch8"] if options.smoke else CASES["imae_cifar10"]
    on_cpu = {"batch_cpu": case.batch_cpu if options.smoke else 64}
    if options.batch_size is not None:
        on_cpu = dict.fromkeys(("batch_cpu", "batch_cuda"), options.batch_size)
    name = f"{options.objective}_{case.name.partition('_')[2]}"
    return dataclasses.replace(case, name=name, objective=options.objective, **on_cpu)


def images(options: argparse.Namespace, scratch: Path) -> tuple[Path, Path]:
    """Return the .beton and the folder with the same JPEGs, made in `scratch` where not given."""
    count = 64 if options.smoke else PICTURES
    beton = options.data or made_up_beton(scratch, count=count, sides=(SIDE, SIDE))
    if options.folder is not None:
        return beton, options.folder
    unpack(beton, scratch / "unpacked")
    return beton, scratch / "unpacked"


def measured(job: Job, case: TrainCase, rounds: int, seconds: float) -> Iterator[list[Row]]:
    """Yield a row for each way, updated after each round: first of loaders alone, then of steps."""
    device, size = job.device, job.batch_size
    with contextlib.ExitStack() as stack:
        rows: list[Row] = []
        alone, fed = [], []
        opened = [open_way(stack, name, job, rows, alone) for name in WAYS]
        for _ in in_turns(alone, device, rounds, seconds):
            for row, turn in zip(rows, alone, strict=True):
                row |= {"crops_per_s": turn.speed, "crops_per_s_rounds": turn.speeds}
            yield rows
        for row, one in zip(rows, opened, strict=True):
            log_progress(f"{row['way']}: builds its step")
            with peak_memory(device) as watch:
                fed.append(turn := training(one, make_objective(case), size, device))
                row["step_gb"] = watch(lambda turn=turn: turn.use(next(turn.items)))
        for _ in in_turns(fed, device, rounds, seconds):
            for row, turn in zip(rows, fed, strict=True):
                row |= {"img_per_s": turn.speed, "img_per_s_rounds": turn.speeds}
                row |= {"data_wait": turn.waited, "steps_at_once": turn.images // size}
            yield rows


def open_way(
    stack: contextlib.ExitStack, name: str, job: Job, rows: list[Row], alone: list[Turn]
) -> Opened:
    """Open a loader until `stack` ends; add its row, with its memory, and its work alone."""
    log_progress(f"{name}: opens")
    with memory_growth(job.device) as memory:
        opened = stack.enter_context(WAYS[name](job))
        turn = loading(opened, job.batch_size, job.device)
        turn.use(next(turn.items))
    rows.append({"way": name, "kept_bytes": opened.kept_bytes, **memory})
    alone.append(turn)
    return opened


@contextlib.contextmanager
def memory_growth(device: torch.device) -> Iterator[Row]:
    """Give a row that gets, at the end, by how many bytes the memory in use has grown.

    The host's with all worker processes, once queues are full; and a GPU's at its peak.
    """
    free_memory(device)
    found: Row = {}
    before = memory_bytes(os.getpid())
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        on_gpu = torch.cuda.memory_allocated(device)
    yield found
    settle(os.getpid())
    free_memory(device)  # what was only needed to fill the device
    found["host_bytes"] = memory_bytes(os.getpid()) - before
    if device.type == "cuda":
        found["gpu_bytes"] = torch.cuda.max_memory_allocated(device) - on_gpu


if __name__ == "__main__":
    sys.exit(main())
