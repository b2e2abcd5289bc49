"""Build the training step from settings: number formats, compiled blocks, CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from fastimae.engine.averaged_weights import AveragedWeights
from fastimae.engine.blocks import compile_blocks, recompute_blocks
from fastimae.engine.distributed import World
from fastimae.engine.fp8 import quantise_and_compare
from fastimae.engine.nan_check import check_modules
from fastimae.engine.optim import MakeAdamW, adamw, build_optimizer
from fastimae.engine.parallel import parallelise
from fastimae.engine.precision import precision_context, resolve_precision
from fastimae.engine.settings import ADAMW, APEX_ADAM, OptimSettings, StepSettings
from fastimae.engine.step import GraphedStep, Step
from fastimae.log import log
from fastimae.settings import ConfigError

if TYPE_CHECKING:
    from fastimae.loaders import Loader
    from fastimae.objectives.base import Objective, Teacher

MakeOptimizer = Callable[[float, MakeAdamW], torch.optim.Optimizer]
"""Makes an optimizer from a learning rate and the AdamW to use."""


def build_step(
    objective: Objective,
    settings: StepSettings,
    run: OptimSettings,
    world: World,
    loader: Loader | None = None,
    optimizer: MakeOptimizer | None = None,
) -> Step:
    """Build the step of a run. Raises ValueError, naming the flag, for impossible settings.

    loader: its first images test a teacher in fp8. optimizer: makes the optimizer from a learning
    rate and the AdamW to use; None: `build_optimizer` does.
    """
    precision = resolve_precision(settings.precision, world.device)
    graph = wants_graph(settings, world, precision)
    objective.to(world.device)
    prepare_objective(objective, settings, world.device, precision, loader)
    with world.watched():
        replica = parallelise(
            objective,
            world,
            settings.parallel,
            precision,
            in_buckets=uses_buckets(settings, precision),
        )
    lr, one_pass = run.peak_lr(world), wants_one_pass(settings, precision)
    if optimizer is None:
        made = build_optimizer(
            objective, lr, run.weight_decay, opt=settings.opt, one_pass=one_pass, for_graph=graph
        )
    else:
        made = optimizer(lr, adamw(one_pass))
    decay = settings.model_ema
    return (GraphedStep if graph else Step)(
        objective,
        made,
        precision=precision,
        device=world.device,
        accum_iter=run.accum_iter,
        clip_grad=run.clip_grad,
        replica=replica,
        average=AveragedWeights(objective.student, decay) if decay else None,
    )


def prepare_objective(
    objective: Objective,
    settings: StepSettings,
    device: torch.device,
    precision: str,
    loader: Loader | None,
) -> None:
    """Apply --precision, --compile, --grad_checkpointing and --nan_check to the objective, and put
    its teachers into their formats. Raises ValueError."""
    for teacher in objective.teachers().values():
        if precision == "bf16" and not teacher.moves:
            teacher.module.bfloat16()
        if teacher.precision == "fp8":
            _teach_in_fp8(objective, teacher, device, precision, loader)
    if settings.grad_checkpointing:
        recompute_blocks(objective)
    if settings.nan_check:
        check_modules(objective)
    elif settings.compile == "on" or (settings.compile == "auto" and device.type == "cuda"):
        for part in objective.parts().values():
            compile_blocks(part)


def wants_graph(settings: StepSettings, world: World, precision: str) -> bool:
    """Return whether to record CUDA graphs. Raises ConfigError if --cuda_graph on cannot work."""
    obstacles = {
        "a CUDA device": world.device.type != "cuda",
        "one process, or --parallel ddp --update auto in bf16": world.size > 1
        and not uses_buckets(settings, precision),
        "--precision bf16 or fp32": precision == "fp16",
        "--opt adamw or muon": settings.opt == APEX_ADAM,
    }
    missing = [need for need, unmet in obstacles.items() if unmet]
    if settings.cuda_graph == "on" and missing:
        raise ConfigError(f"--cuda_graph on needs {', '.join(missing)}")
    return settings.cuda_graph != "off" and not missing and not settings.nan_check


def uses_buckets(settings: StepSettings, precision: str) -> bool:
    """Return whether processes average gradients in our `Buckets`, which our updates read."""
    ours = settings.opt != APEX_ADAM and settings.update == "auto"
    return ours and settings.parallel == "ddp" and precision == "bf16"


def wants_one_pass(settings: StepSettings, precision: str) -> bool:
    """Return whether our AdamW updates the parameters; log it if the settings prevent that."""
    obstacles = {
        "--precision fp16 scales the loss": precision == "fp16",
        "--parallel fsdp shards parameters": settings.parallel == "fsdp",
    }
    found = [reason for reason, holds in obstacles.items() if holds]
    if found and settings.update == "auto" and settings.opt == ADAMW:
        log.info("torch's AdamW updates the parameters: %s", ", ".join(found))
    return settings.update == "auto" and not found


def _teach_in_fp8(
    objective: Objective, teacher: Teacher, device: torch.device, precision: str, loader: Loader
) -> None:
    """Quantise the teacher, and log how far that moves its latents of the first images."""
    if precision != "bf16":
        raise ConfigError("--teacher_precision fp8 needs --precision bf16")
    state = loader.state_dict()
    batch = next(iter(loader)).to(device)
    loader.load_state_dict(state)
    with precision_context(objective, precision, device):
        error = quantise_and_compare(teacher.module, lambda: teacher.output(batch))
    log.info("the teacher computes in fp8: its latents move by %.2f %% (l2)", 100 * error)
