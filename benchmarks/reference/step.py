"""The usual training step: fp16 with loss scaling on a GPU, and a wait for the loss each time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

BETAS, WEIGHT_DECAY = (0.9, 0.95), 0.05


class PlainStep:
    """A step that copies float tensors from host memory, trains on them, and reads the loss.

    loss_of: computes the loss of these tensors on the device. dtype: autocast's; None: fp32. fp16
    comes with a gradient scaler. waits: read the loss and synchronise in each step, as the public
    training loops of MAE and i-MAE do.
    """

    def __init__(
        self,
        loss_of: Callable[..., Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype | None = None,
        waits: bool = True,
    ) -> None:
        self.loss_of, self.optimizer = loss_of, optimizer
        self.dtype, self.waits = dtype, waits
        self.device = optimizer.param_groups[0]["params"][0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)

    def __call__(self, *host: Tensor) -> Tensor:
        """Run one step; return the loss, on the device."""
        tensors = [tensor.to(self.device, non_blocking=True) for tensor in host]
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            loss = self.loss_of(*tensors)
        if self.waits:
            loss.item()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.waits and self.device.type == "cuda":
            torch.cuda.synchronize()
        return loss.detach()


def plain_adamw(model: nn.Module, lr: float = 1e-4, *, fused: bool = False) -> torch.optim.AdamW:
    """Make AdamW as MAE does, without decay of vectors. fused: update in one kernel."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=fused)


def usual_dtype(device: torch.device) -> torch.dtype | None:
    """Return the autocast of these pipelines: fp16 on a GPU, none (fp32) elsewhere."""
    return torch.float16 if device.type == "cuda" else None
