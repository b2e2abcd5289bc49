"""Number formats of a step: what --precision means on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""What --precision takes."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """ "bf16", "fp16" or "fp32". Raises ValueError, naming --precision, for what cannot run.

    auto is bf16 where it pays: on GPUs that compute in it, on CPUs with AMX or AVX512-bf16.
    """
    if precision == "auto":
        return "bf16" if _bf16_pays(device) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError("--precision fp16 needs a CUDA device: use --precision bf16 or fp32")
    return precision


def computing(
    module: nn.Module, precision: str, device: torch.device
) -> contextlib.AbstractContextManager:
    """Context for a forward pass of the module *and* its backward pass.

    bf16: all of it, weights and the residual stream too (`in_format`; a sharded module does so
    itself). fp16: autocast, as plain fp16 has too short a range. fp32: nothing.
    """
    if precision == "bf16" and not hasattr(module, "unshard"):
        return in_format(module, torch.bfloat16)
    if precision == "fp16":
        return torch.autocast(device.type, torch.float16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def in_format(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Put casts of the module's fp32 parameters in their places for a while.

    The parameters themselves stay as they are: the fp32 masters that an optimizer updates, that a
    checkpoint holds, and whose `grad` collects, through the casts, in fp32. The casts stay in
    place during the backward pass, which may compute parts of the forward pass again.
    """
    places = [
        (owner._parameters, name, parameter)
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if parameter is not None and parameter.dtype == torch.float32
    ]
    try:
        for parameters, name, parameter in places:
            parameters[name] = parameter.to(dtype)
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter


def _bf16_pays(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    has = getattr(torch.cpu, "get_capabilities", dict)()
    return has.get("amx_bf16", False) or has.get("avx512_bf16", False)
