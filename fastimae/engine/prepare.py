"""How a step is computed: formats, compiled blocks, CUDA graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from fastimae.engine.distributed import World
from fastimae.engine.fp8 import quantise_and_compare
from fastimae.engine.nan_check import check_modules
from fastimae.engine.optim import ADAMW, OptimSettings, build_optimizer
from fastimae.engine.parallel import parallelise
from fastimae.engine.precision import Precision, computing, resolve_precision
from fastimae.engine.regions import compile_blocks, recompute_blocks
from fastimae.engine.step import GraphedStep, Step
from fastimae.log import log
from fastimae.settings import ConfigError, Free, Idle, Settings

if TYPE_CHECKING:
    from fastimae.loaders import Loader
    from fastimae.objectives.base import Objective, Teacher


@dataclasses.dataclass(kw_only=True)
class StepSettings(Settings):
    """How a step is computed, whatever it is of."""

    precision: Precision = "auto"
    """auto: bf16 on GPUs that have it and on CPUs with AMX or AVX512-bf16, else fp32."""
    compile: Free[Literal["auto", "on", "off"]] = "auto"
    """torch.compile for the transformer blocks; auto: on a GPU. Its first steps take a minute."""
    grad_checkpointing: Free[bool] = False
    """Keep only the inputs of blocks, and compute the rest again: less memory, a third slower."""
    nan_check: Free[bool] = False
    """Check every module for NaN, forward and backward, and name the first. Slow."""

    # What pre-training can choose, and others have as it is here.
    parallel: ClassVar[str] = "ddp"
    opt: ClassVar[str] = ADAMW
    cuda_graph: ClassVar[str] = "off"

    def check(self) -> None:
        super().check()
        for name in ("compile", "cuda_graph"):
            on = self.nan_check and getattr(self, name) == "on"
            self.require(not on, f"--nan_check looks into every step: drop --{name} on")


@dataclasses.dataclass(kw_only=True)
class SpeedSettings(StepSettings):
    """How a step of pre-training is computed."""

    parallel: Free[Literal["ddp", "fsdp"]] = StepSettings.parallel
    """What GPUs share: ddp, the batch only; fsdp, also weights and optimizer, to fit more."""
    opt: Literal["adamw", "apex_adam"] = ADAMW
    """adamw: torch's fused AdamW. apex_adam: FusedAdam of NVIDIA apex, if that is installed."""
    cuda_graph: Free[Literal["auto", "on", "off"]] = "auto"
    """Record the step as CUDA graphs and replay them; auto: on one GPU, in bf16 or fp32."""
    kernels: Free[Literal["auto", "torch"]] = "auto"
    """auto: our Triton kernels on a GPU. torch: plain torch there too, to compare the two."""
    attention: Free[Literal["auto", "triton", "sdpa"] | None] = None
    """auto: on a GPU, our kernel or SDPA, the faster. None: FASTIMAE_ATTENTION says, else auto."""

    def check(self) -> None:
        super().check()
        self.require(
            self.parallel == "ddp" or self.opt == "adamw",
            "--parallel fsdp needs --opt adamw: apex takes no sharded parameters",
        )

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield Idle(self.kernels == "torch", ("attention",), "with --kernels torch")


def build_step(
    objective: Objective,
    how: StepSettings,
    run: OptimSettings,
    world: World,
    loader: Loader | None = None,
    optimizer: Callable[[float], torch.optim.Optimizer] | None = None,
) -> Step:
    """The step of a run, ready to be taken. Raises ValueError, naming the flag, for what cannot be.

    loader: shows the first images to a teacher in fp8. optimizer: makes one, given the rate; None:
    as `build_optimizer`.
    """
    precision = resolve_precision(how.precision, world.device)
    graph = wants_graph(how, world, precision)
    objective.to(world.device)
    prepare_objective(objective, how, world.device, precision, loader)
    with world.watched():
        parallel = parallelise(objective, world, how.parallel, precision)
    lr = run.peak_lr(world)
    if optimizer is None:
        made = build_optimizer(objective, lr, run.weight_decay, opt=how.opt, for_graph=graph)
    else:
        made = optimizer(lr)
    return (GraphedStep if graph else Step)(
        objective,
        made,
        precision=precision,
        device=world.device,
        accum_iter=run.accum_iter,
        clip_grad=run.clip_grad,
        parallel=parallel,
    )


def prepare_objective(
    objective: Objective,
    how: StepSettings,
    device: torch.device,
    precision: str,
    loader: Loader | None,
) -> None:
    """The objective as --precision, --compile, --grad_checkpointing and --nan_check want it, and
    its teachers in their formats. Raises ValueError."""
    for teacher in objective.teachers().values():
        if precision == "bf16" and not teacher.moves:
            teacher.module.bfloat16()
        if teacher.precision == "fp8":
            _teach_in_fp8(objective, teacher, device, precision, loader)
    if how.grad_checkpointing:
        recompute_blocks(objective)
    if how.nan_check:
        check_modules(objective)
    elif how.compile == "on" or (how.compile == "auto" and device.type == "cuda"):
        for part in objective.parts().values():
            compile_blocks(part)


def wants_graph(how: StepSettings, world: World, precision: str) -> bool:
    """Whether the step is recorded as CUDA graphs. Raises ConfigError where that cannot be."""
    obstacles = {
        "a CUDA device": world.device.type != "cuda",
        "one process": world.size > 1,
        "--precision bf16 or fp32": precision == "fp16",
        "--opt adamw": how.opt != "adamw",
    }
    missing = [name for name, there in obstacles.items() if there]
    if how.cuda_graph == "on" and missing:
        raise ConfigError(f"--cuda_graph on needs {', '.join(missing)}")
    return how.cuda_graph != "off" and not missing and not how.nan_check


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
