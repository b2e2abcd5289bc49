"""--nan_check: find the first module, forward or backward, that makes a NaN or infinity."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.metrics import NonFiniteLoss


def check_modules(objective: nn.Module) -> None:
    """Make each module raise NonFiniteLoss if its output, or the output's gradient, is not finite.

    The error names the module and is raised inside the forward or backward pass. Each check waits
    for the device: this is for debugging, not for long runs.
    """
    for name, module in objective.named_modules():
        if name and not isinstance(module, nn.ModuleList):
            module.register_forward_hook(functools.partial(_check_output, name))


def _check_output(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
    for tensor in _tensors(outputs):
        _check(f"the output of {name}", tensor)
        if tensor.requires_grad:
            tensor.register_hook(functools.partial(_check, f"the gradient of the output of {name}"))


def _check(what: str, tensor: Tensor) -> None:
    finite = tensor.isfinite()
    if not bool(finite.all()):
        raise NonFiniteLoss(
            f"--nan_check: {what} has {int((~finite).sum())} of {tensor.numel()} values that are "
            f"not finite, in {str(tensor.dtype).removeprefix('torch.')}; try --precision fp32, "
            "--clip_grad 1 or a smaller --blr"
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
