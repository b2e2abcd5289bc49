"""AdamW's update of all parameters in one pass over memory.

T = tensors. A parameter has an fp32 master, two fp32 moments, a gradient and, where the model
computes in another dtype, a copy of the master in that dtype. Order: kernel, public class, tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastimae.kernels._adamw_chunks import update_in_chunks
from fastimae.kernels._launch import Impl, jit, launch, tl, triton_dtype, use_triton

BLOCK = 2048
"""Values per program."""
UNIT = 8
"""Tensors whose size is a multiple of this share a launch, so that its memory accesses are wide."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ParameterTensors(NamedTuple):
    """The tensors that an update reads and writes for one parameter, with its settings.

    master, exp_avg, exp_avg_sq: fp32. gradient: fp32, bf16 or fp16. copy: bf16, fp16 or None. All
    have the same shape. step: fp32 scalar, updates so far. lr: a number or a scalar tensor.
    """

    master: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    copy: Tensor | None
    lr: Tensor | float
    weight_decay: float


@jit
def _kernel(
    addresses_ptr, factors_ptr, chunks_ptr, scale_ptr, tensors, beta1, rest1, beta2, rest2, eps,
    GRADIENT: tl.constexpr, COPY: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Update BLOCK values of one tensor: 28 bytes per value with gradient and copy in 16 bits.

    addresses: int64 [5, T] of master, exp_avg, exp_avg_sq, gradient, copy, each a multiple of 16.
    factors: fp32 [3, T], from `_factors`. chunks: int32 [programs, 3]: tensor, its block, and its
    length in units. scale: fp32 scalar that gradients are multiplied by, or None.
    """
    chunk_ptr = chunks_ptr + tl.program_id(0) * 3
    tensor, block = tl.load(chunk_ptr), tl.load(chunk_ptr + 1)
    i = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < tl.load(chunk_ptr + 2).to(tl.int64) * UNIT
    row_ptr = addresses_ptr + tensor
    master_ptr = tl.multiple_of(tl.load(row_ptr).to(tl.pointer_type(tl.float32)), 16)
    first_ptr = tl.multiple_of(tl.load(row_ptr + tensors).to(tl.pointer_type(tl.float32)), 16)
    second_ptr = tl.multiple_of(tl.load(row_ptr + 2 * tensors).to(tl.pointer_type(tl.float32)), 16)
    gradient_ptr = tl.multiple_of(tl.load(row_ptr + 3 * tensors).to(tl.pointer_type(GRADIENT)), 16)
    kept = tl.load(factors_ptr + tensor)
    size = tl.load(factors_ptr + tensors + tensor)
    root = tl.load(factors_ptr + 2 * tensors + tensor)

    gradient = tl.load(gradient_ptr + i, mask=inside, other=0.0).to(tl.float32)
    if scale_ptr is not None:
        gradient *= tl.load(scale_ptr)
    exp_avg = tl.load(first_ptr + i, mask=inside, other=0.0) * beta1 + gradient * rest1
    exp_avg_sq = tl.load(second_ptr + i, mask=inside, other=0.0)
    exp_avg_sq = exp_avg_sq * beta2 + gradient * gradient * rest2
    master = tl.load(master_ptr + i, mask=inside, other=0.0) * kept
    master -= size * exp_avg / (tl.sqrt_rn(exp_avg_sq) * root + eps)
    tl.store(first_ptr + i, exp_avg, mask=inside)
    tl.store(second_ptr + i, exp_avg_sq, mask=inside)
    tl.store(master_ptr + i, master, mask=inside)
    if COPY is not None:
        copy_ptr = tl.load(row_ptr + 4 * tensors).to(tl.pointer_type(COPY))
        tl.store(tl.multiple_of(copy_ptr, 16) + i, master.to(COPY), mask=inside)


class AdamWUpdate:
    """AdamW (Loshchilov and Hutter, 2019, algorithm 2), as torch.optim.AdamW computes it.

    One kernel updates all tensors in place and locates them through a table of addresses, so they
    remain separate tensors. It reads and writes 28 bytes per value where gradient and copy have 16
    bits. On a CPU, and where Triton cannot run, torch does the update in cache-sized chunks.
    """

    def __init__(self, *, impl: Impl = "auto") -> None:
        self.impl = impl
        self.recorded_updates = 1
        """How many updates are captured in CUDA graphs, at most, before one is made without."""
        self._tables: dict[tuple, _Table] = {}

    def __call__(
        self,
        tensors: Sequence[ParameterTensors],
        scale: Tensor | None = None,
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        """Update `tensors` and increment each `step`.

        scale: fp32 scalar on their device that gradients are multiplied by, as for clipping.
        Never waits for a device. Can be captured in CUDA graphs `recorded_updates` times if it was
        called with tensors of these sizes before. A replay uses the addresses from the capture, so
        the tensors and this object must live as long as the graph. Raises ValueError for
        impl="triton" where that cannot run, and RuntimeError where the call cannot be captured.
        """
        if not tensors:
            return
        torch._foreach_add_([one.step for one in tensors], 1)
        if use_triton("adamw", self.impl, tensors[0].master, obstacle=_obstacle(tensors)):
            self._by_kernel(tensors, scale, betas, eps)
        else:
            _update_in_torch(tensors, scale, betas, eps)

    def _by_kernel(
        self,
        tensors: Sequence[ParameterTensors],
        scale: Tensor | None,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        beta1, beta2 = betas
        for kind, members in _grouped_by(_launch_kind, tensors).items():
            key = (*kind, *((one.master.numel(), one.weight_decay) for one in members))
            if key not in self._tables:
                self._tables[key] = _Table(members, kind[0])
            table, (unit, gradient, copy) = self._tables[key], kind
            launch(
                _kernel,
                (len(table.chunks),),
                addresses_ptr=table.current_addresses(members, self.recorded_updates),
                factors_ptr=_factors(members, table, betas),
                chunks_ptr=table.chunks,
                scale_ptr=scale,
                tensors=len(members),
                beta1=beta1, rest1=1 - beta1, beta2=beta2, rest2=1 - beta2, eps=eps,
                GRADIENT=triton_dtype(gradient), COPY=copy and triton_dtype(copy), UNIT=unit,
                BLOCK=BLOCK,
                num_warps=8,
            )  # fmt: skip


class _Table:
    """A launch's tables on the device: the tensor and block of each program, and all addresses."""

    def __init__(self, tensors: Sequence[ParameterTensors], unit: int) -> None:
        device, sizes = tensors[0].master.device, torch.tensor([x.master.numel() for x in tensors])
        blocks = (sizes + BLOCK - 1) // BLOCK
        number = torch.arange(len(tensors)).repeat_interleave(blocks)
        first = torch.arange(len(number)) - (blocks.cumsum(0) - blocks)[number]
        chunks = torch.stack([number, first, (sizes // unit)[number]], 1)
        self.chunks = chunks.to(torch.int32).to(device)
        decay = [-one.weight_decay for one in tensors]
        self.minus_decay = torch.tensor(decay, dtype=torch.float64).to(device)
        self.betas: dict[tuple[float, float], Tensor] = {}
        """Both betas -> fp64 [2, 1] on the device."""
        self.addresses = torch.zeros(5, len(tensors), dtype=torch.int64, device=device)
        self.spare: list[Tensor] = []
        """Pinned memory for the next captures, as none can be allocated during one."""
        self.captured: list[Tensor] = []
        """Pinned memory of the captured graphs, which their replays read again."""

    def current_addresses(self, members: Sequence[ParameterTensors], captures: int) -> Tensor:
        """Copy the current addresses of the tensors to the device. captures: that may follow."""
        named = [(x.master, x.exp_avg, x.exp_avg_sq, x.gradient, x.copy) for x in members]
        rows = [[0 if x is None else x.data_ptr() for x in row] for row in zip(*named, strict=True)]
        addresses = torch.tensor(rows)  # pageable memory, which the driver has copied on return
        if self.addresses.is_cuda and torch.cuda.is_current_stream_capturing():
            if not self.spare:
                raise RuntimeError("adamw: call it once before each CUDA graph capture")
            addresses = self.spare.pop().copy_(addresses)
            self.captured.append(addresses)
        elif self.addresses.is_cuda:
            missing = range(len(self.spare), captures)
            self.spare += [torch.empty_like(addresses, pin_memory=True) for _ in missing]
        self.addresses.copy_(addresses, non_blocking=True)
        return self.addresses


def _factors(
    members: Sequence[ParameterTensors], table: _Table, betas: tuple[float, float]
) -> Tensor:
    """Return the kernel's factors, fp32 [3, T], computed in fp64.

    They are the share of a master that weight decay leaves, the learning rate over the first bias
    correction, and 1 over the square root of the second one. A step launches these operations
    again, so they are few: 0-dim and fp32 inputs become fp64 inside them, and results fp32.
    """
    steps = torch.stack([one.step for one in members])
    lr = [one.lr for one in members]
    if not torch.is_tensor(lr[0]):  # torch.tensor(..., device=...) would wait for the device
        lr = torch.tensor(lr).to(steps.device, non_blocking=True)
    elif all(one is lr[0] for one in lr):
        lr = lr[0]
    else:
        lr = torch.stack(lr)
    if betas not in table.betas:
        columns = torch.tensor(betas, dtype=torch.float64)[:, None]
        table.betas[betas] = columns.to(steps.device)
    first, second = 1 - table.betas[betas] ** steps
    factors = steps.new_empty(3, len(members))
    torch.add(lr * table.minus_decay, 1, out=factors[0])
    torch.div(lr, first, out=factors[1])
    torch.rsqrt(second, out=factors[2])
    return factors


def _update_in_torch(
    tensors: Sequence[ParameterTensors],
    scale: Tensor | None,
    betas: tuple[float, float],
    eps: float,
) -> None:
    def call_kind(one: ParameterTensors) -> tuple:
        return one.lr, one.weight_decay, one.copy is None, one.master.dtype

    for (lr, weight_decay, no_copy, _), members in _grouped_by(call_kind, tensors).items():
        masters, gradients, exp_avgs, exp_avg_sqs, steps, copies, *_ = zip(*members, strict=True)
        update_in_chunks(
            masters, gradients, exp_avgs, exp_avg_sqs, steps, None if no_copy else copies,
            lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, scale=scale,
        )  # fmt: skip


def _launch_kind(one: ParameterTensors) -> tuple[int, torch.dtype, torch.dtype | None]:
    """Return what tensors of one launch must have in common: see `_kernel`."""
    unit = 1 if one.master.numel() % UNIT else UNIT
    return unit, one.gradient.dtype, None if one.copy is None else one.copy.dtype


def _grouped_by(
    key: Callable[[ParameterTensors], tuple], tensors: Sequence[ParameterTensors]
) -> dict[tuple, list]:
    """Group tensors by their key, in order within each group."""
    groups: dict[tuple, list[ParameterTensors]] = {}
    for one in tensors:
        groups.setdefault(key(one), []).append(one)
    return groups


def _obstacle(tensors: Sequence[ParameterTensors]) -> str:
    """Return why the kernel does not support these tensors, or an empty string."""
    for one in tensors:
        state = (one.master, one.exp_avg, one.exp_avg_sq)
        others = [one.gradient] if one.copy is None else [one.gradient, one.copy]
        if any(x.dtype != torch.float32 for x in state):
            return f"masters and moments are not all fp32, but {one.master.dtype}"
        if any(x.dtype not in _DTYPES for x in others):
            return f"a gradient or copy is {others[-1].dtype}"
        if not all(x.is_contiguous() and x.data_ptr() % 16 == 0 for x in (*state, *others)):
            return "a tensor is not contiguous, or does not begin at a multiple of 16 bytes"
    return ""
