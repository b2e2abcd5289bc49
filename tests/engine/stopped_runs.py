"""Runs that are killed or stopped and then resumed, and the same runs undisturbed.

    stopped_runs.py FOLDER

Each kind of training runs with one process or with two. FOLDER/report.json has the exit statuses
of each run's processes for each start; FOLDER/NAME is its output_dir.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import toy_images
import toy_task
from built_in import OBJECTIVES, flags_of
from forked import get_ready, launch
from runs_to_stop import RUNS

from fastimae import cli
from fastimae.engine.trainer import Trainer
from fastimae.evaluate.tasks import (
    finetune,  # noqa: F401 - before processes are forked
    linear,  # noqa: F401 - before processes are forked
)

BATCH, EPOCHS = 4, 2
COMMON = (
    "--device cpu --num_workers 0 --warmup_epochs 1 --save_steps 2 --save_freq 9 --log_steps 3 "
    f"--clip_grad 0.5 --dist_timeout 60 --epochs {EPOCHS}"
)
PRETRAINING = (
    "--synthetic --synthetic_samples 34 --model mae_vit_nano_patch16 --input_size 32 "
    "--blr 3e-2 --precision fp32"
)
GROWING = PRETRAINING.replace("patch16", "patch8") + " --resolution_schedule 16@0 32@1"
TASKS = {
    **{name: (cli.train, f"{PRETRAINING} {flags_of(name)}") for name in OBJECTIVES},
    "cmae": (cli.train, f"{GROWING} {flags_of('cmae')}"),
    "linear": (cli.evaluate, "linear --lr 0.1"),
    "finetune": (
        cli.evaluate,
        "finetune --precision fp32 --lr 1e-3 --drop_path 0.5 --mixup 0.8 --cutmix 1 --cls_token",
    ),
    "toy": (toy_task.command, "--lr 0.01 --precision fp32"),
}
# How a run ends early, and before which of its eight steps (from 0).
ENDS = {
    "kill_2": (signal.SIGKILL, 2), "kill_4": (signal.SIGKILL, 4), "kill_7": (signal.SIGKILL, 7),
    "stop_5": (signal.SIGTERM, 5),
}  # fmt: skip


def main(folder: Path) -> None:
    get_ready(flags for start, flags in TASKS.values() if start is cli.train)
    toy_images.save_mae(folder / "mae.pth", depth=2)
    for part, count in (("train", 11), ("val", 2)):
        toy_images.save_colours(folder / "data" / part, count)
    report = {}
    for task, size, ends in RUNS:
        name = f"{task}_{size}"
        report[f"{name}_whole"] = [train(folder, task, size, "whole")]
        for end in ends:
            report[f"{name}_{end}"] = [
                train(folder, task, size, end, ends_early(*ENDS[end])),
                train(folder, task, size, end),
            ]
    (folder / "report.json").write_text(json.dumps(report))


def train(
    folder: Path, task: str, size: int, name: str, at_step: Callable[[Trainer], None] | None = None
) -> list[int]:
    """Start or resume a run; return the exit statuses of its processes."""
    start, flags = TASKS[task]
    output = folder / f"{task}_{size}_{name}"
    command = f"{flags} {COMMON} --batch_size {BATCH * 2 // size} --output_dir {output} "
    command += "--resume auto "
    if start is cli.evaluate:
        command += f"--checkpoint {folder / 'mae.pth'} --data_path {folder / 'data'}"
    return launch(folder, output.name, size, lambda: run(start, command, at_step))["codes"]


def run(start: Callable, command: str, at_step: Callable[[Trainer], None] | None) -> int:
    real = Trainer._train_step

    def step(self: Trainer, batches: object) -> None:
        if at_step:
            at_step(self)
        real(self, batches)

    Trainer._train_step = step
    return start(command.split())


def ends_early(number: int, at: int) -> Callable[[Trainer], None]:
    """Return a hook that kills every process, or asks one of them to stop."""

    def end(trainer: Trainer) -> None:
        here = trainer.epoch * trainer.updates_per_epoch + trainer.update == at
        if here and (number == signal.SIGKILL or trainer.world.is_main):
            os.kill(os.getpid(), number)

    return end


if __name__ == "__main__":
    main(Path(sys.argv[1]))
