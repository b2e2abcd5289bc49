"""What `fastimae.accelerate` does for each habit of the field: `python -m benchmarks.accelerate`.

For each class of models: training steps (forward, backward, torch's AdamW) of the model as it is
and of its accelerated copy, in turns, in one process. Before them one step of each, with equal
weights, masks and random numbers, says how far loss and gradients are off.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import sys
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

import fastimae
from benchmarks.habits import HABITS, SMALL, TINY, Habit, Size
from benchmarks.habits.twins import both, differences
from benchmarks.harness import BenchmarkReport, log_progress, number, table, usual_parser
from benchmarks.timing import clock_of, summarise
from fastimae.foreign_models.report import grouped
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.accelerate"
BATCH = {"cpu": 4, "cuda": 64}
PRECISIONS = ("fp32", "bf16")
"""bf16: under autocast, with weights in fp32."""
Row = dict[str, object]


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Measure the model classes one by one; the report is kept after each."""
    parser = usual_parser(PROG, __doc__)
    parser.add_argument("--models", nargs="+", choices=HABITS, default=[*HABITS], metavar="NAME")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[*PRECISIONS])
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each")
    parser.add_argument("--batch_size", type=int, help="images per step (CPU: 4, CUDA: 64)")
    options = parser.parse_args(argv)
    device, size = torch.device(options.device), TINY if options.smoke else SMALL
    batch = options.batch_size or BATCH[device.type]
    report = BenchmarkReport(device, PROG, argv, options.out, accelerated=[], batch_size=batch)
    report["size"] = f"ViT of width {size.width}, {size.depth} blocks, {size.img_size} pixels"
    for name in options.models:
        for precision in options.precision:
            log_progress(f"{name}, {precision}")
            row = measured(HABITS[name], size, batch, device, precision, options.steps)
            report["accelerated"].append(row)
            report.keep()
    report.finish()
    print(markdown(report))
    return 0


def measured(
    habit: Habit, size: Size, batch: int, device: torch.device, precision: str, steps: int
) -> Row:
    """Compare and time a model class; return its row."""
    torch.manual_seed(0)
    habit = _under_autocast(habit, device) if precision == "bf16" else habit
    before = habit.build(size).to(device).train()
    after = fastimae.accelerate(copy.deepcopy(before))
    imgs = torch.randn(batch, habit.channels, size.img_size, size.img_size, device=device)
    habit.step(after, imgs)  # the trials, on the whole batch
    loss, gradients = differences(*both(habit, before, after, imgs))
    models = {"before": before, "after": after}
    clocks = {
        name: clock_of(
            name, _training_step(habit, m, imgs), device, calls=1, warm_up=1, replays=False
        )
        for name, m in models.items()
    }
    turns = [(("before", "after"), ("after", "before"))[turn % 2] for turn in range(steps)]
    seconds = [{name: clocks[name]() for name in names} for names in turns]
    return {
        "model": habit.name,
        "precision": precision,
        "swapped": _names(after, "swapped"),
        "left": _names(after, "left"),
        "loss_off": loss,
        "gradients_off": gradients,
        **_milliseconds(seconds),
    }


def _under_autocast(habit: Habit, device: torch.device) -> Habit:
    """Return the habit with its step under autocast to bf16."""

    def step(model: nn.Module, imgs: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16):
            return habit.step(model, imgs)

    return Habit(habit.name, habit.build, step, habit.needs, habit.channels)


def _training_step(habit: Habit, model: nn.Module, imgs: Tensor) -> functools.partial:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    return functools.partial(_train, habit, model, optimizer, imgs)


def _train(habit: Habit, model: nn.Module, optimizer: torch.optim.Optimizer, imgs: Tensor) -> None:
    optimizer.zero_grad()
    habit.step(model, imgs)[0].backward()
    optimizer.step()


def _names(model: nn.Module, state: str) -> list[str]:
    """List the parts in this state, families as one; those that are left by the reason."""
    found = [row for row in model.fastimae_report.rows if row.state == state]
    chances = re.compile(r"\(\w+=[\d.]+\)")  # of DropPath, which differ from block to block
    rows = grouped([dataclasses.replace(row, why=chances.sub("", row.why)) for row in found])
    if state == "swapped":
        return [row.part for row in rows]
    reasons = dict.fromkeys(row.why for row in rows)
    return [f"{why}: {', '.join(r.part for r in rows if r.why == why)}" for why in reasons]


def _milliseconds(seconds: list[dict[str, float]]) -> Row:
    """Return medians of each, and quantiles of the ratio within a turn, which other programs
    disturb less."""
    ratios = summarise([turn["before"] / turn["after"] for turn in seconds])
    medians = {
        f"{name}_ms": 1e3 * summarise([turn[name] for turn in seconds]).median
        for name in seconds[0]
    }
    quantiles = {"ratio": ratios.median, "ratio_20": ratios.low, "ratio_80": ratios.high}
    return {**medians, **quantiles, "rounds": len(seconds)}


def markdown(report: Mapping) -> str:
    """Make a row for each model class and precision."""
    note = (
        f"{report['size']}, {report['batch_size']} images per step; bf16: under autocast. Medians "
        f"of {report['accelerated'][0]['rounds']} steps of each, in turns; ratio: median of those "
        "within a turn, and the 20 % and 80 % quantiles; where nothing is swapped, it shows the "
        "noise. Off: difference of loss and of all gradients, as one vector, relative to the model "
        "as it is. Not listed: parts whose op of ours is torch's own on this device.\n"
        if report["accelerated"]
        else ""
    )
    return f"{table([_shown(row) for row in report['accelerated']])}\n{note}"


def _shown(row: Mapping) -> dict[str, str]:
    left = [reason for reason in row["left"] if not reason.startswith("ours is torch's own")]
    slow = [reason for reason in left if _SLOW.match(reason)]
    return {
        "model class": row["model"],
        "precision": row["precision"],
        "swapped": _listed(row["swapped"]),
        "left, not surely faster": _listed(_SLOW.sub("", reason) for reason in slow),
        "left for another reason": _listed(reason for reason in left if reason not in slow),
        "loss off": f"{row['loss_off']:.0e}",
        "gradients off": f"{row['gradients_off']:.0e}",
        "ms before": number(row["before_ms"]),
        "ms after": number(row["after_ms"]),
        "ratio": f"x {row['ratio']:.2f} ({row['ratio_20']:.2f} to {row['ratio_80']:.2f})",
    }


_SLOW = re.compile("(no|not reliably) faster here: ")


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts) or "-"


if __name__ == "__main__":
    sys.exit(main())
