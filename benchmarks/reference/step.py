"""The usual training step: fp16 with loss scaling on a GPU, and a wait for the loss each time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def plain_step(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], host_images: Tensor
) -> Callable[[], None]:
    """A step on a batch of normalised float images [B, 3, H, W] in host memory.

    model: what is trained. loss_of: its loss on images that are on the model's device. Precision
    is autocast fp16 with a scaler on CUDA, fp32 on a CPU. The step copies the batch, trains, and
    reads the loss.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)

    def step() -> None:
        images = host_images.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.float16, enabled=on_gpu):
            loss = loss_of(images)
        loss.item()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()

    return step
