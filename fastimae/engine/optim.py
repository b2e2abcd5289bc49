"""Learning rate and optimizer, as in MAE (appendix A.1)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from torch import nn

from fastimae.engine.distributed import World
from fastimae.engine.files import EFFECTIVE_BATCH, PROCESSES
from fastimae.engine.sharded import laid_out_state
from fastimae.settings import NotNegative, PositiveFloat, PositiveInt, StepSize

BETAS = (0.9, 0.95)
ADAMW = "adamw"


@dataclasses.dataclass(kw_only=True)
class OptimSettings(StepSize):
    """How it is trained."""

    epochs: PositiveInt = 400
    """Passes over the data."""
    weight_decay: NotNegative = 0.05
    """On matrices only."""
    lr: NotNegative | None = None
    """Absolute learning rate. None: blr x effective batch / 256."""
    blr: NotNegative = 1e-3
    """Base learning rate, of an effective batch of 256."""
    min_lr: NotNegative = 0.0
    """Where the half-cosine ends."""
    warmup_epochs: NotNegative = 40
    """Epochs of linear warm-up."""
    clip_grad: PositiveFloat | None = None
    """Largest norm of the gradient. None: no clipping."""

    def effective_batch(self, world: World) -> int:
        """How many images all processes together show in an optimizer step."""
        return self.batch_size * self.accum_iter * world.size

    def step_of(self, world: World) -> dict[str, int]:
        """For checkpoints: how many processes there are, and how large their step is."""
        return {PROCESSES: world.size, EFFECTIVE_BATCH: self.effective_batch(world)}

    def peak_lr(self, world: World) -> float:
        """The learning rate after warm-up; MAE scales it linearly with the batch."""
        return self.blr * self.effective_batch(world) / 256 if self.lr is None else self.lr

    def lr_at(self, epoch: float, world: World) -> float:
        """The learning rate at a point of training, in fractional epochs: it rises linearly from 0,
        then falls by half a cosine."""
        peak = self.peak_lr(world)
        if epoch < self.warmup_epochs:
            return peak * epoch / self.warmup_epochs
        rest = max(self.epochs - self.warmup_epochs, 1e-12)
        cosine = math.cos(math.pi * min((epoch - self.warmup_epochs) / rest, 1.0))
        return self.min_lr + (peak - self.min_lr) * 0.5 * (1 + cosine)


def build_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    opt: Literal["adamw", "apex_adam"] = ADAMW,
    for_graph: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; 1-d parameters (biases, norms) do not decay.

    Groups and their parameters are in the order of timm's `param_groups_weight_decay`, so that
    MAE's code goes on from a checkpoint's "optimizer".

    opt: torch's fused AdamW, or FusedAdam of NVIDIA apex. for_graph: to be recorded in a CUDA
    graph; the rate of each group is then a tensor. Raises ValueError where apex is not NVIDIA's.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
    ]
    if opt == "apex_adam":
        return _apex_adam()(groups, lr=lr, betas=BETAS, adam_w_mode=True)
    if for_graph:
        rate = torch.tensor(lr, device=trainable[0].device)
        return torch.optim.AdamW(groups, lr=rate, betas=BETAS, fused=True, capturable=True)
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; groups with an "lr_scale" (layer decay) take that share of it."""
    for group in optimizer.param_groups:
        own = lr * group.get("lr_scale", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(own)
        else:
            group["lr"] = own


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its `state_dict` with numbers for rates, whatever they are here."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a `state_dict` of whole tensors: its moments, and this optimizer's settings.

    Rates stay tensors or numbers, as this optimizer wants them, and take the saved value. Raises
    ValueError where the moments are of other parameters.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    saved = laid_out_state(_in_order(state, optimizer), optimizer)
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**theirs, **ours, "params": theirs["params"], "lr": float(theirs["lr"])}
        for theirs, ours in zip(saved["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate.fill_(group["lr"]) if torch.is_tensor(rate) else group["lr"]


def _in_order(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state with its groups in the order of this optimizer's, and its parameters numbered by
    it: checkpoints of format 1 had the two groups the other way round."""
    groups = state["param_groups"]
    for order in (groups, groups[::-1]):
        if _fits([[state["state"].get(n, {}) for n in g["params"]] for g in order], optimizer):
            old = [number for group in order for number in group["params"]]
            new = {number: place for place, number in enumerate(old)}
            return {
                "state": {new[n]: values for n, values in state["state"].items() if n in new},
                "param_groups": [{**g, "params": [new[n] for n in g["params"]]} for g in order],
            }
    raise ValueError("the optimizer's state is of other parameters than this run trains")


def _fits(groups: list[list[dict[str, Any]]], optimizer: torch.optim.Optimizer) -> bool:
    """Whether the moments in `groups` have the shapes of the optimizer's parameters."""
    own = [[p.shape for p in group["params"]] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in own]:
        return False
    return all(
        value.shape in (shape, torch.Size())
        for group, shapes in zip(groups, own, strict=True)
        for values, shape in zip(group, shapes, strict=True)
        for value in values.values()
        if torch.is_tensor(value)
    )


def _apex_adam() -> type[torch.optim.Optimizer]:
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ValueError(
            f"--opt apex_adam needs NVIDIA apex ({error}), built from its repository with "
            "--cpp_ext --cuda_ext (the apex of PyPI is another project); --opt adamw needs nothing"
        ) from error
    return FusedAdam
