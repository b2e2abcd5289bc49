"""Number formats of a training step: what --precision means on a device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from fastimae.engine.settings import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_precision(precision: Precision, device: torch.device) -> str:
    """Return "bf16", "fp16" or "fp32". Raises ValueError, naming --precision, if it cannot run.

    "auto" is bf16 where that is faster: on GPUs with bf16 units, on CPUs with AMX or AVX512-bf16.
    """
    if precision == "auto":
        return "bf16" if _has_fast_bf16(device) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError("--precision fp16 needs a CUDA device: use --precision bf16 or fp32")
    return precision


def precision_context(
    module: nn.Module, precision: str, device: torch.device
) -> contextlib.AbstractContextManager:
    """Return the context for a forward pass of the module *and* its backward pass.

    bf16: everything, weights and the residual stream included (`weights_cast_to`; FSDP2 casts for a
    sharded module). fp16: autocast, as pure fp16 has too small a range. fp32: nothing.
    """
    if precision == "bf16" and not hasattr(module, "unshard"):
        return weights_cast_to(module, torch.bfloat16)
    if precision == "fp16":
        return torch.autocast(device.type, torch.float16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def weights_cast_to(
    module: nn.Module, dtype: torch.dtype, copies: Mapping[nn.Parameter, Tensor] | None = None
) -> Iterator[None]:
    """Replace the module's fp32 parameters by casts during the block.

    The parameters themselves are unchanged. They are the fp32 masters that an optimizer updates and
    a checkpoint stores; through the casts, their `grad` accumulates in fp32. Include the backward
    pass in the block: it may recompute parts of the forward pass.

    copies: tensors to use instead of casts, for some of the parameters.
    """
    copies = copies or {}
    replaced = [
        (held, name, held[name])
        for owner in module.modules()
        for name in owner._parameters
        for held in (owner._parameters, vars(owner))  # `Encoder.set_image_size` hides parameters
        if held.get(name) is not None and held[name].dtype == torch.float32
    ]
    try:
        for held, name, parameter in replaced:
            copy = copies.get(parameter)
            held[name] = parameter.to(dtype) if copy is None else copy
        yield
    finally:
        for held, name, parameter in replaced:
            held[name] = parameter


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    features = getattr(torch.cpu, "get_capabilities", dict)()
    return features.get("amx_bf16", False) or features.get("avx512_bf16", False)
