"""Learning rate and optimizer, as in MAE (appendix A.1)."""

from __future__ import annotations

import dataclasses
import math

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


def build_adamw(module: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; 1-d parameters (biases, norms) do not decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)
