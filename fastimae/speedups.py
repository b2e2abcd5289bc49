"""Which ways of going faster a run takes: formats, compiled blocks, CUDA graphs."""

from __future__ import annotations

import logging

import torch

from fastimae.config import TrainConfig
from fastimae.engine.distributed import World
from fastimae.engine.fp8 import quantise_and_compare
from fastimae.engine.nan_check import check_modules
from fastimae.engine.precision import computing
from fastimae.engine.regions import compile_blocks, recompute_blocks
from fastimae.loaders import Loader
from fastimae.objectives.base import Objective, Teacher
from fastimae.settings import ConfigError

log = logging.getLogger("fastimae")


def prepare_objective(
    objective: Objective,
    config: TrainConfig,
    device: torch.device,
    precision: str,
    loader: Loader,
) -> None:
    """The objective as --precision, --compile, --grad_checkpointing and --nan_check want it, and
    its teachers in their formats. Raises ValueError."""
    optim = config.optim
    for teacher in objective.teachers().values():
        if precision == "bf16" and not teacher.moves:
            teacher.module.bfloat16()
        if teacher.precision == "fp8":
            _teach_in_fp8(objective, teacher, device, precision, loader)
    if optim.grad_checkpointing:
        recompute_blocks(objective)
    if config.optim.nan_check:
        check_modules(objective)
    elif optim.compile == "on" or (optim.compile == "auto" and device.type == "cuda"):
        for part in objective.parts().values():
            compile_blocks(part)


def wants_graph(config: TrainConfig, world: World, precision: str) -> bool:
    """Whether the step is recorded as CUDA graphs. Raises ConfigError where that cannot be."""
    obstacles = {
        "a CUDA device": world.device.type != "cuda",
        "one process": world.size > 1,
        "--precision bf16 or fp32": precision == "fp16",
        "--opt adamw": config.optim.opt != "adamw",
    }
    missing = [name for name, there in obstacles.items() if there]
    if config.optim.cuda_graph == "on" and missing:
        raise ConfigError(f"--cuda_graph on needs {', '.join(missing)}")
    return config.optim.cuda_graph != "off" and not missing and not config.optim.nan_check


def _teach_in_fp8(
    objective: Objective, teacher: Teacher, device: torch.device, precision: str, loader: Loader
) -> None:
    """Quantise the teacher, and say how far that moves its latents of the first images."""
    if precision != "bf16":
        raise ConfigError("--teacher_precision fp8 needs --precision bf16")
    state = loader.state_dict()
    batch = next(iter(loader)).to(device)
    loader.load_state_dict(state)
    with computing(objective, precision, device):
        error = quantise_and_compare(teacher.module, lambda: teacher.output(batch))
    log.info("the teacher computes in fp8: its latents move by %.2f %% (l2)", 100 * error)
