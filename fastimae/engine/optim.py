"""Learning rate and optimizer, as in MAE (appendix A.1)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import nn

BETAS = (0.9, 0.95)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from 0 to `lr`, then half a cosine down to `min_lr`. Units: epochs."""

    lr: float
    min_lr: float
    warmup_epochs: float
    epochs: float

    def at(self, epoch: float) -> float:
        """Learning rate at a point of training, in fractional epochs."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        rest = max(self.epochs - self.warmup_epochs, 1e-12)
        cosine = math.cos(math.pi * min((epoch - self.warmup_epochs) / rest, 1.0))
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + cosine)


def scaled_lr(blr: float, effective_batch: int) -> float:
    """The linear scaling rule: blr is the rate of an effective batch of 256 images."""
    return blr * effective_batch / 256


def build_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    opt: Literal["adamw", "apex_adam"] = "adamw",
    for_graph: bool = False,
) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; 1-d parameters (biases, norms) do not decay.

    opt: torch's fused AdamW, or FusedAdam of NVIDIA apex. for_graph: to be recorded in a CUDA
    graph; the rate of each group is then a tensor. Raises ValueError where apex is not NVIDIA's.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Go on from a `state_dict`; rates stay tensors or numbers, as this optimizer wants them."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        saved, group["lr"] = float(group["lr"]), rate
        group["lr"] = rate.fill_(saved) if torch.is_tensor(rate) else saved


def _apex_adam() -> type[torch.optim.Optimizer]:
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ValueError(
            f"--opt apex_adam needs NVIDIA apex ({error}), built from its repository with "
            "--cpp_ext --cuda_ext (the apex of PyPI is another project); --opt adamw needs nothing"
        ) from error
    return FusedAdam
