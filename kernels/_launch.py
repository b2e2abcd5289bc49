"""Which implementation of an op runs, and how Triton kernels are launched where Triton exists."""

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
except ImportError:  # macOS, Windows, ARM: every op also has a torch implementation
    triton = tl = None

Impl = Literal["auto", "triton", "torch"]
AttentionImpl = Literal["auto", "triton", "sdpa"]
MlpImpl = Literal["auto", "triton", "torch"]

log = logging.getLogger("fastimae")

_default: Literal["auto", "torch"] = "auto"
_default_for: dict[str, str | None] = {}
"""Overrides for single ops; None leaves the choice to the op's environment variable."""
_IMPLS = {"attention": get_args(AttentionImpl), "mlp": get_args(MlpImpl)}


def set_default_impl(
    impl: Literal["auto", "torch"],
    attention: AttentionImpl | None = None,
    mlp: MlpImpl | None = None,
) -> None:
    """Set what impl="auto" means in this process.

    impl: "auto" for Triton where it can run, "torch" for never. attention, mlp: the same for that
    op alone while impl is "auto": "triton" wherever it can run, "sdpa" or "torch" for never, "auto"
    for the faster of the two by the GPU's table. None: the value of the environment variable
    FASTIMAE_ATTENTION or FASTIMAE_MLP, or "auto" if it is not set.
    Raises ValueError for any other value, including that of a variable that is used.
    """
    global _default
    if impl not in ("auto", "torch"):
        raise ValueError(f"kernels {impl!r} is not one of auto, torch")
    for op, choice in (("attention", attention), ("mlp", mlp)):
        if choice not in (None, *_IMPLS[op]):
            raise ValueError(f"{op} {choice!r} is not one of {', '.join(_IMPLS[op])}")
        _default_for[op] = choice
    _default = impl
    for op in _IMPLS:
        default_impl(op)  # raises if the variable has an invalid value


def default_impl(op: str) -> Impl:
    """Return what impl="auto" means for "attention" or "mlp".

    "triton" means wherever it can run, "auto" the faster of the two. Raises ValueError if the op's
    environment variable has an invalid value.
    """
    variable = f"FASTIMAE_{op.upper()}"
    choice = _default_for.get(op) or os.environ.get(variable) or "auto"
    if choice not in _IMPLS[op]:
        raise ValueError(f"{variable}={choice} is not one of {', '.join(_IMPLS[op])}")
    return "torch" if _default == "torch" or choice == "sdpa" else choice


def jit(kernel: Callable[..., None]) -> Any:
    """Apply `triton.jit`; without Triton return the function itself, which is then never called."""
    return triton.jit(kernel) if triton else kernel


def use_triton(
    op: str,
    impl: Impl,
    *tensors: Tensor,
    obstacle: str = "",
    default: Impl | None = None,
) -> bool:
    """Return whether `op` runs its Triton kernel on these tensors.

    obstacle: why the kernel does not support this call, empty if it does. "auto" uses the kernel on
    CUDA, and logs once if it cannot. On the CPU "auto" never uses it: the interpreter is for tests,
    which pass "triton" with TRITON_INTERPRET=1 in the environment. default: what "auto" means for
    this op, if it differs from the process-wide setting; "triton" tries the CPU too.

    Raises ValueError for "triton" where it cannot run, and for an unknown `impl`.
    """
    if impl not in ("auto", "triton", "torch"):
        raise ValueError(f"{op}: impl={impl!r} is not one of auto, triton, torch")
    wanted = (default or _default) if impl == "auto" else impl
    on_cuda = all(tensor.is_cuda for tensor in tensors)
    if wanted == "torch" or (wanted == "auto" and not on_cuda):
        return False
    if triton is None:
        obstacle = "triton is not installed"
    elif not on_cuda and not interpreted():
        obstacle = "its tensors are not on a CUDA device"
    if not obstacle:
        return True
    if impl == "triton":
        raise ValueError(f"{op}: impl='triton' cannot run: {obstacle}")
    if not torch.compiler.is_compiling():  # logging would break the graph
        _log_once(op, obstacle)
    return False


def launch(kernel: Any, grid: tuple[int, ...], *, fuse: bool = True, **arguments: Any) -> None:
    """Launch a kernel on the GPU of its tensors, which need not be the current one.

    fuse: whether a product and a sum may be rounded once; False where bits have to be the CPU's.
    """
    device = next(x.device for x in arguments.values() if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        # The default differs between versions of Triton, which then warns about it.
        kernel[grid](**arguments, enable_fp_fusion=fuse)


@functools.cache
def multiprocessor_count(device: torch.device) -> int:
    """Return how many multiprocessors a GPU has; the interpreter counts as one."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter, which takes CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """Return Triton's dtype for a torch dtype."""
    return getattr(tl, str(dtype).removeprefix("torch."))


@functools.cache
def _log_once(op: str, obstacle: str) -> None:
    log.warning("%s runs in torch instead of Triton: %s", op, obstacle)
