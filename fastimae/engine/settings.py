"""How a run is trained: batch and learning rate, and how a step is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from fastimae.engine.checkpoint_file import EFFECTIVE_BATCH, PROCESSES
from fastimae.settings import (
    Expert,
    Free,
    Idle,
    InnerShare,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Settings,
    StepSize,
)

if TYPE_CHECKING:
    from fastimae.engine.distributed import World

ADAMW, APEX_ADAM, MUON = "adamw", "apex_adam", "muon"
Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""What --precision takes."""


@dataclasses.dataclass(kw_only=True)
class OptimSettings(StepSize):
    """The optimizer and its schedule."""

    epochs: PositiveInt = 400
    """Passes over the data."""
    weight_decay: NotNegative = 0.05
    """Weight decay of matrices; biases and norms have none."""
    lr: NotNegative | None = None
    """Absolute learning rate. None: blr x effective batch / 256."""
    blr: NotNegative = 1e-3
    """Base learning rate, for an effective batch of 256."""
    min_lr: Expert[NotNegative] = 0.0
    """Learning rate at the end of the half-cosine."""
    warmup_epochs: NotNegative = 40
    """Epochs of linear warm-up."""
    clip_grad: PositiveFloat | None = None
    """Largest norm of the gradient. None: no clipping."""

    def effective_batch(self, world: World) -> int:
        """Return the images per optimizer step, over all processes."""
        return self.batch_size * self.accum_iter * world.size

    def step_of(self, world: World) -> dict[str, int]:
        """Return the number of processes and their effective batch, for checkpoints."""
        return {PROCESSES: world.size, EFFECTIVE_BATCH: self.effective_batch(world)}

    def peak_lr(self, world: World) -> float:
        """Return the learning rate after warm-up, which MAE scales linearly with the batch."""
        return self.blr * self.effective_batch(world) / 256 if self.lr is None else self.lr

    def lr_at(self, epoch: float, world: World) -> float:
        """Return the learning rate after `epoch` (fractional) epochs: it rises linearly from 0, and
        then falls along half a cosine."""
        peak = self.peak_lr(world)
        if epoch < self.warmup_epochs:
            return peak * epoch / self.warmup_epochs
        rest = max(self.epochs - self.warmup_epochs, 1e-12)
        cosine = math.cos(math.pi * min((epoch - self.warmup_epochs) / rest, 1.0))
        return self.min_lr + (peak - self.min_lr) * 0.5 * (1 + cosine)


@dataclasses.dataclass(kw_only=True)
class StepSettings(Settings):
    """How a training step is computed."""

    precision: Precision = "auto"
    """auto: bf16 on GPUs that have it and on CPUs with AMX or AVX512-bf16, else fp32."""
    compile: Free[Literal["auto", "on", "off"]] = "auto"
    """torch.compile for the transformer blocks; auto: on a GPU. Its first steps take a minute."""
    grad_checkpointing: Free[bool] = False
    """Keep only the input of each block and recompute the rest: less memory, a third slower."""
    nan_check: Expert[Free[bool]] = False
    """Check every module for NaN, forward and backward, and name the first. Slow."""

    # Only pre-training has flags for these, see `SpeedSettings`; other training uses these values.
    parallel: ClassVar[str] = "ddp"
    opt: ClassVar[str] = ADAMW
    update: ClassVar[str] = "auto"
    cuda_graph: ClassVar[str] = "off"
    model_ema: ClassVar[float | None] = None

    def check(self) -> None:
        super().check()
        for name in ("compile", "cuda_graph"):
            on = self.nan_check and getattr(self, name) == "on"
            self.require(not on, f"--nan_check looks into every step: drop --{name} on")


@dataclasses.dataclass(kw_only=True)
class SpeedSettings(StepSettings):
    """How a step of pre-training is computed."""

    parallel: Free[Literal["ddp", "fsdp"]] = StepSettings.parallel
    """ddp: GPUs share only the batch. fsdp: also weights and optimizer state, to fit more."""
    opt: Expert[Literal["adamw", "apex_adam", "muon"]] = ADAMW
    """apex_adam: FusedAdam of NVIDIA apex. muon: Muon for matrices of blocks, AdamW for the rest,
    both with AdamW's --lr and --weight_decay (match_rms_adamw)."""
    update: Expert[Free[Literal["auto", "torch"]]] = StepSettings.update
    """auto: our AdamW, one pass over weights and their bf16 copies. torch: torch's AdamW."""
    cuda_graph: Expert[Free[Literal["auto", "on", "off"]]] = "auto"
    """Record the step as CUDA graphs and replay them; auto: in bf16, and on one GPU in fp32."""
    model_ema: Expert[InnerShare | None] = StepSettings.model_ema
    """Decay of an average of the weights (EMA), such as 0.9999; --use_ema reads it. None: none."""
    kernels: Expert[Free[Literal["auto", "torch"]]] = "auto"
    """auto: our Triton kernels on a GPU. torch: plain torch there too, to compare the two."""
    attention: Expert[Free[Literal["auto", "triton", "sdpa"] | None]] = None
    """auto: on a GPU, the faster of our kernel and SDPA. None: $FASTIMAE_ATTENTION, else auto."""
    mlp: Expert[Free[Literal["auto", "triton", "torch"] | None]] = None
    """auto: on a GPU, the faster of our fused MLP and torch's. None: $FASTIMAE_MLP, else auto."""

    def check(self) -> None:
        super().check()
        self.require(
            self.parallel == "ddp" or self.opt == ADAMW,
            "--parallel fsdp needs --opt adamw: apex takes no sharded parameters, and Muon needs "
            "whole matrices",
        )

    def idle(self) -> Iterator[Idle]:
        yield from super().idle()
        yield Idle(self.kernels == "torch", ("attention", "mlp"), "with --kernels torch")
        yield Idle(self.opt != ADAMW, ("update",), f"with --opt {self.opt}")
