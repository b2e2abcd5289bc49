"""From an objective, a loader and settings to a trainer: the one assembly of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

from fastimae.engine.precision import Precision
from fastimae.settings import Idle, Settings


@dataclasses.dataclass(kw_only=True)
class StepSettings(Settings):
    """How a step is computed, whatever it is of."""

    precision: Precision = "auto"
    """auto: bf16 on GPUs that have it and on CPUs with AMX or AVX512-bf16, else fp32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for the transformer blocks; auto: on a GPU. Its first steps take a minute."""
    grad_checkpointing: bool = False
    """Keep only the inputs of blocks, and compute the rest again: less memory, a third slower."""
    nan_check: bool = False
    """Check every module for NaN, forward and backward, and name the first. Slow."""

    def check(self) -> None:
        """As of `Settings`."""
        super().check()
        for name in ("compile", "cuda_graph"):
            on = self.nan_check and getattr(self, name, "off") == "on"
            self.require(not on, f"--nan_check looks into every step: drop --{name} on")


@dataclasses.dataclass(kw_only=True)
class SpeedSettings(StepSettings):
    """How a step of pre-training is computed."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What GPUs share: ddp, the batch only; fsdp, also weights and optimizer, to fit more."""
    opt: Literal["adamw", "apex_adam"] = "adamw"
    """adamw: torch's fused AdamW. apex_adam: FusedAdam of NVIDIA apex, if that is installed."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Record the step as CUDA graphs and replay them; auto: on one GPU, in bf16 or fp32."""
    kernels: Literal["auto", "torch"] = "auto"
    """auto: our Triton kernels on a GPU. torch: plain torch there too, to compare the two."""
    attention: Literal["auto", "triton", "sdpa"] | None = None
    """auto: on a GPU, our kernel or SDPA, the faster. None: FASTIMAE_ATTENTION says, else auto."""

    def check(self) -> None:
        """As of `Settings`."""
        super().check()
        self.require(
            self.parallel == "ddp" or self.opt == "adamw",
            "--parallel fsdp needs --opt adamw: apex takes no sharded parameters",
        )

    def idle(self) -> Iterator[Idle]:
        """As of `Settings`."""
        yield from super().idle()
        yield Idle(self.kernels == "torch", ("attention",), "with --kernels torch")
