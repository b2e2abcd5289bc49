"""Number formats of a step: what --precision means on a device."""

from __future__ import annotations

import contextlib

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16", "fp16" or "fp32". Raises ValueError, naming --precision, for what cannot run.

    auto is bf16 where it pays: on GPUs that compute in it and on CPUs with AMX.
    """
    if precision == "auto":
        return "bf16" if _bf16_pays(device) else "fp32"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError("--precision fp16 needs a CUDA device: use --precision bf16 or fp32")
    return precision


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """Context in which a step's matrix products run in the precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def _bf16_pays(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)
