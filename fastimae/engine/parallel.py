"""How processes share the training of an objective: DDP, each holds all of it, or FSDP2, a part."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastimae.engine.blocks import blocks
from fastimae.engine.bucket_replica import BucketReplica
from fastimae.engine.distributed import World
from fastimae.engine.precision import DTYPES
from fastimae.engine.replica import DDPReplica, Replica, ShardedReplica

if TYPE_CHECKING:
    from fastimae.objectives.base import Objective


def parallelise(
    objective: Objective,
    world: World,
    kind: Literal["ddp", "fsdp"],
    precision: str,
    *,
    in_buckets: bool = False,
) -> Replica:
    """Return the replica of the objective that this process trains.

    in_buckets: "ddp" averages gradients by our `Buckets`, not by torch's DDP. "fsdp" shards the
    objective itself: build optimizers from its parameters afterwards. Raises ValueError, naming the
    flag, for a combination that cannot work.
    """
    if kind == "fsdp":
        return ShardedReplica(_shard(objective, world, precision))
    if world.size == 1:
        return Replica(objective)
    if in_buckets:
        return BucketReplica(objective, world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.15 renames broadcast_buffers
        ddp = DistributedDataParallel(
            objective,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=not objective.loss_uses_all,
        )
    return DDPReplica(objective, ddp)


def is_sharded(objective: nn.Module) -> bool:
    """Return whether parameters are sharded: all processes must then call the objective at once."""
    return hasattr(objective, "unshard")  # FSDP2 makes its modules of another class


def _shard(objective: Objective, world: World, precision: str) -> Objective:
    """Shard what changes in training, block by block; teachers that never change stay unsharded.

    bf16: weights are gathered as bf16 casts of the fp32 shards, gradients are averaged in fp32.
    Unsharded teachers must already be in the format that they compute in.
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
