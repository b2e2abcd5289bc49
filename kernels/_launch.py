"""Which implementation of an op runs, and triton where there is one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS, Windows, ARM: every op has a torch implementation
    triton = tl = None

Impl = Literal["auto", "triton", "torch"]
Attention = Literal["auto", "triton", "sdpa"]
_ATTENTION = get_args(Attention)

log = logging.getLogger("fastimae")

_preferred: Literal["auto", "torch"] = "auto"
_attention: Attention | None = None


def prefer(impl: Literal["auto", "torch"], attention: Attention | None = None) -> None:
    """What impl="auto" means in this process: "auto" is Triton where it can run, "torch" never.

    attention: for that op alone, where impl is "auto": "triton" wherever it can run, "sdpa" never,
    "auto" the faster of the two by the GPU's table. None: what the environment variable
    FASTIMAE_ATTENTION says, and "auto" without one.
    Raises ValueError for anything else, in the variable too where it counts.
    """
    global _preferred, _attention
    if impl not in ("auto", "torch"):
        raise ValueError(f"kernels {impl!r} are not one of auto, torch")
    if attention not in (None, *_ATTENTION):
        raise ValueError(f"attention {attention!r} is not one of {', '.join(_ATTENTION)}")
    _preferred, _attention = impl, attention
    attention_preference()  # raises where the variable makes no sense


def attention_preference() -> Impl:
    """What impl="auto" means for attention: "triton" wherever it can run, "torch", or "auto"."""
    choice = _attention or os.environ.get("FASTIMAE_ATTENTION") or "auto"
    if choice not in _ATTENTION:
        raise ValueError(f"FASTIMAE_ATTENTION={choice} is not one of {', '.join(_ATTENTION)}")
    return "torch" if _preferred == "torch" or choice == "sdpa" else choice


def jit(kernel: Callable[..., None]) -> Any:
    """`triton.jit`, or the function as it is, never to be called, where there is no triton."""
    return triton.jit(kernel) if triton else kernel


def use_triton(
    op: str,
    impl: Impl,
    *tensors: Tensor,
    obstacle: str = "",
    preferred: Impl | None = None,
) -> bool:
    """Whether `op` runs its Triton kernel on these tensors.

    obstacle: why the kernel does not serve this call, if it does not. "auto" takes the kernel on
    CUDA, and says once where it cannot. On the CPU it never does: the interpreter is for tests,
    which ask for "triton" with TRITON_INTERPRET=1 in the environment. preferred: what "auto" means
    for this op, if not what it means for all; "triton" tries the CPU too.

    Raises ValueError for "triton" where it cannot run, and for an `impl` that is none.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"{op}: impl={impl!r} is not one of auto, triton, torch")
    way = (preferred or _preferred) if impl == "auto" else impl
    on_cuda = all(tensor.is_cuda for tensor in tensors)
    if way == "torch" or (way == "auto" and not on_cuda):
        return False
    if triton is None:
        obstacle = "triton is not installed"
    elif not on_cuda and not interpreted():
        obstacle = "its tensors are not on a CUDA device"
    if not obstacle:
        return True
    if impl == "triton":
        raise ValueError(f"{op}: impl='triton' cannot run: {obstacle}")
    if not torch.compiler.is_compiling():  # which has no place for messages
        _say_once(op, obstacle)
    return False


def launch(kernel: Any, grid: tuple[int, ...], **arguments: Any) -> None:
    """Run a kernel on the GPU of its tensors, which need not be the current one."""
    device = next(x.device for x in arguments.values() if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        # Triton's default changes with its version, and it would warn of that.
        kernel[grid](**arguments, enable_fp_fusion=True)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which takes tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _say_once(op: str, obstacle: str) -> None:
    log.warning("%s runs in torch instead of Triton: %s", op, obstacle)
