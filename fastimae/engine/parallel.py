"""How several processes train one objective: each holds all of it (DDP), or a part (FSDP2)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastimae.engine.distributed import World
from fastimae.engine.precision import DTYPES
from fastimae.engine.regions import blocks

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


def parallelise(
    objective: Objective, world: World, kind: Literal["ddp", "fsdp"], precision: str
) -> nn.Module:
    """What is called in the objective's place; its gradients are means over all processes.

    fsdp shards the objective itself: optimizers must be built of its parameters afterwards.
    Raises ValueError, naming the flag, for what cannot be.
    """
    if kind == "fsdp":
        return _shard(objective, world, precision)
    if world.size == 1:
        return objective
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames broadcast_buffers
        return DistributedDataParallel(
            objective,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=not objective.loss_uses_all,
        )


def is_sharded(objective: nn.Module) -> bool:
    """Whether each process holds a part of the parameters only: then all must call it together."""
    return hasattr(objective, "unshard")  # FSDP2 makes its modules of another class


@contextlib.contextmanager
def averaging(called: nn.Module, last: bool) -> Iterator[None]:
    """Around a forward and backward pass of what `parallelise` returned.

    last: of a step's passes. Only then are gradients averaged over the processes; until then each
    adds up its own.
    """
    if is_sharded(called):
        called.set_requires_gradient_sync(last)
        called.set_is_last_backward(last)
    alone = isinstance(called, DistributedDataParallel) and not last
    with called.no_sync() if alone else contextlib.nullcontext():
        yield


def _shard(objective: Objective, world: World, precision: str) -> Objective:
    """Shard what changes in training, block by block; teachers that do not stay as they are.

    bf16: weights are gathered as bf16 casts of the fp32 shards, gradients are averaged in fp32.
    Those teachers must be in the format that they are to compute in.
    """
    if world.size == 1:
        raise ValueError(
            "--parallel fsdp shards a model over processes, and there is one: start several "
            "(torchrun --nproc_per_node=N --no-python fastimae-train ...), or drop the flag"
        )
    if precision == "fp16":
        raise ValueError("--parallel fsdp computes in bf16 or fp32: change --precision fp16")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # only read
    fixed = [teacher.module for teacher in objective.teachers().values() if not teacher.moves]
    frozen = {parameter for module in fixed for parameter in module.parameters()}
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[precision], reduce_dtype=torch.float32)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks(objective):
        if frozen.isdisjoint(block.parameters()):
            fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(objective, mesh=mesh, mp_policy=policy, ignored_params=frozen)
    register_fsdp_forward_method(objective, "reconstruct")
    return objective
