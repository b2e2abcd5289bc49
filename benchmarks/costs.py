"""What each objective costs against MAE: `python -m benchmarks.costs --help`.

Operations, and numbers of parameters, are counted for a ViT-B/16 at 224 pixels. Complete training
steps of a smaller model are timed in turns, in one run. Activations are the bytes that its forward
pass keeps for the backward pass, each memory once and weights left out: an exact count on a CPU.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import BenchmarkReport, log_progress, number, table, usual_parser
from benchmarks.timing import in_rounds
from benchmarks.train.cases import (
    CASES,
    CROSSMAE,
    PIXIO,
    SMOKE_CASES,
    TrainCase,
    make_batch,
    make_objective,
)
from benchmarks.train.measure import checked
from benchmarks.train.variants import FastImaeStep, VariantBuilder
from fastimae.engine.precision import precision_context, resolve_precision
from fastimae.objectives import Objective
from fastimae.streams import closed_early_is_fine

PROG = "python -m benchmarks.costs"
MAPS = (*CROSSMAE["sizes"], ("weighted_feature_maps", True))
NAMES: dict[str, tuple[str, dict[str, object]]] = {
    "MAE": ("mae", {}),
    "i-MAE, with a teacher": ("imae", {}),
    "CrossMAE": ("mae", CROSSMAE),
    "CrossMAE, weighted feature maps": ("mae", {**CROSSMAE, "sizes": MAPS}),
    "i-MAE with CrossMAE's decoder": ("imae", CROSSMAE),
    "Pixio, at MAE's image size": ("mae", PIXIO),
    "R-MAE": ("rmae", {}),
    "R-MAE, dagger": ("rmae", {"settings": (("second_view", "independent"),)}),
    "R-MAE, double dagger": ("rmae", {"settings": (("second_view", "full"),)}),
    "C-MAE": ("cmae", {}),
    "C-MAE without mask tokens": (
        "cmae", {"settings": (("encoder_mask_tokens", False), ("second_view", "full"))},
    ),
}  # fmt: skip
"""Names of rows, each with an objective, and what else its `TrainCase` has. MAE comes first."""
COUNTED = CASES["mae_vit_base_patch16"]
MEASURED = dataclasses.replace(COUNTED, model="mae_vit_small_patch16")
SMOKE = SMOKE_CASES["mae_vit_nano_patch8"]
Row = dict[str, object]


@closed_early_is_fine()
def main(argv: list[str] | None = None) -> int:
    """Measure all objectives in turns; the report is kept after each round."""
    parser = usual_parser(PROG, __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timings of each objective")
    parser.add_argument("--batch_size", type=int, default=16, help="images per step")
    options = parser.parse_args(argv)
    device = torch.device(options.device)
    case = dataclasses.replace(
        SMOKE if options.smoke else MEASURED,
        batch_cpu=options.batch_size,
        batch_cuda=options.batch_size,
    )
    report = BenchmarkReport(device, PROG, argv, options.out, costs=[], model=case.model)
    report |= {"precision": resolve_precision("auto", device), "batch_size": options.batch_size}
    for rows in measured(case, device, options.rounds):
        report["costs"] = rows
        report.keep()
    report.finish()
    print(markdown(report))
    return 0


def measured(case: TrainCase, device: torch.device, rounds: int) -> Iterator[list[Row]]:
    """Yield a row for each objective, updated after each round of timings.

    Raises AssertionError for a step with a wrong loss: see `benchmarks.train`.
    """
    cases = {name: _with(case, *what) for name, what in NAMES.items()}
    facts, steps = {}, {}
    for name, one in cases.items():
        log_progress(name)
        kept = activation_bytes(make_objective(one).to(device), one, device)
        counts = counted(_with(COUNTED, *NAMES[name]))
        facts[name] = {**counts, "activation_bytes": kept / one.batch_size(device)}
        steps[name], _ = checked(
            one, name, FastImaeStep(), VariantBuilder(one, device, share=False)
        )
    for timings in in_rounds(steps, device, rounds=rounds, warm_up=1):
        yield [
            {
                "objective": name,
                **facts[name],
                "ms": 1e3 * timing.median / case.batch_size(device),
                "ms_20": 1e3 * timing.low / case.batch_size(device),
                "ms_80": 1e3 * timing.high / case.batch_size(device),
                "rounds": timing.rounds,
            }
            for name, timing in timings.items()
        ]


def _with(case: TrainCase, objective: str, changes: Mapping[str, object]) -> TrainCase:
    return dataclasses.replace(case, objective=objective, **changes)


def counted(case: TrainCase) -> Row:
    """Count operations per image, and the parameters that are trained and that teachers have."""
    objective = make_objective(case, "meta")
    teachers = [teacher.module for teacher in objective.teachers().values()]
    return {
        "flops": objective.train_flops(),
        "trained": sum(map(_parameters, objective.trainable().values())),
        "of_teachers": sum(map(_parameters, teachers)),
    }


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def activation_bytes(objective: Objective, case: TrainCase, device: torch.device) -> int:
    """Count the bytes that a forward pass of a batch keeps, without those of weights."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = make_batch(case, case.batch_size(device)).to(device)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with precision_context(objective, resolve_precision("auto", device), device), hooks:
        parts = objective(batch)  # keeps its graph, whose memory is therefore not used again
        weights = [p for module in objective.modules() for p in module._parameters.values()]
        of_weights = {p.untyped_storage().data_ptr() for p in weights if p is not None}
    assert math.isfinite(parts["loss"].item())
    return sum(size for place, size in kept.items() if place not in of_weights)


def markdown(report: Mapping) -> str:
    """Make a row for each objective, with ratios to MAE's."""
    rows = report["costs"]
    if not rows:
        return "(nothing measured)\n"
    note = (
        f"Counted for {COUNTED.model} at {COUNTED.img_size} pixels; time and activations "
        f"measured with {report['model']}, {report['precision']}, {report['batch_size']} images.\n"
    )
    return f"{table([_shown(row, rows[0]) for row in rows])}\n{note}"


def _shown(row: Mapping, mae: Mapping) -> dict[str, str]:
    against = partial(_against, row, mae)
    return {
        "objective": row["objective"],
        "GFLOP / image": against("flops", 1e9),
        "M parameters, trained": number(row["trained"] / 1e6),
        "of teachers": number(row["of_teachers"] / 1e6),
        "ms / image": against("ms", 1),
        "activations, MB / image": against("activation_bytes", 1e6),
    }


def _against(row: Mapping, mae: Mapping, key: str, unit: float) -> str:
    """Show a number, and how many times MAE's it is."""
    return f"{number(row[key] / unit)} (x {row[key] / mae[key]:.2f})"


if __name__ == "__main__":
    sys.exit(main())
