"""Which implementation of an op runs, and triton where there is one."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # macOS, Windows, ARM: every op has a torch implementation
    triton = tl = None

Impl = Literal["auto", "triton", "torch"]

log = logging.getLogger("fastimae")

_preferred: Literal["auto", "torch"] = "auto"


def prefer(impl: Literal["auto", "torch"]) -> None:
    """What impl="auto" means in this process: "auto" is Triton where it can run, "torch" never.

    Raises ValueError for anything else.
    """
    global _preferred
    if impl not in ("auto", "torch"):
        raise ValueError(f"kernels {impl!r} are not one of auto, torch")
    _preferred = impl


def jit(kernel: Callable[..., None]) -> Any:
    """`triton.jit`, or the function as it is, never to be called, where there is no triton."""
    return triton.jit(kernel) if triton else kernel


def use_triton(op: str, impl: Impl, *tensors: Tensor, obstacle: str = "") -> bool:
    """Whether `op` runs its Triton kernel on these tensors.

    obstacle: why the kernel does not serve this call, if it does not. "auto" takes the kernel on
    CUDA, and says once where it cannot. On the CPU it never does: the interpreter is for tests,
    which ask for "triton" with TRITON_INTERPRET=1 in the environment.

    Raises ValueError for "triton" where it cannot run, and for an `impl` that is none.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"{op}: impl={impl!r} is not one of auto, triton, torch")
    if impl == "auto":
        impl = _preferred
    on_cuda = all(tensor.is_cuda for tensor in tensors)
    if impl == "torch" or (impl == "auto" and not on_cuda):
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
