"""--teacher_precision fp8: the matrix products of a frozen model in 8 bits, by torchao."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def quantise(module: nn.Module) -> None:
    """Make the linear layers of a frozen module multiply in fp8 (e4m3), scaled row by row.

    Raises ValueError if torchao is missing or the device has no fp8.
    """
    device = next(module.parameters()).device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError("--teacher_precision fp8 needs a GPU of compute capability 8.9 or later")
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise ValueError(
            f"--teacher_precision fp8 needs torchao ({error}): pip install torchao"
        ) from error
    config = Float8DynamicActivationFloat8WeightConfig(
        granularity=PerRow(), set_inductor_config=False
    )
    quantize_(module, config)


@torch.no_grad()
def quantise_and_compare(module: nn.Module, output: Callable[[], Tensor]) -> float:
    """Quantise the module; return the relative l2 change of `output()`."""
    before = output().float()
    quantise(module)
    return float((output().float() - before).norm() / before.norm())
