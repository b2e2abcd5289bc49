"""Learning rate and optimizer, as in MAE (appendix A.1)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastimae.engine.muon import MuonAdamW, muon_groups
from fastimae.engine.one_pass_adamw import OnePassAdamW
from fastimae.engine.settings import ADAMW, APEX_ADAM, MUON
from fastimae.engine.sharded import shard_state_like

BETAS = (0.9, 0.95)
MakeAdamW = Callable[..., torch.optim.AdamW]
"""Makes an AdamW from the arguments of torch's."""


def build_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    *,
    opt: str = ADAMW,
    one_pass: bool = True,
    for_graph: bool = False,
) -> torch.optim.Optimizer:
    """Build --opt over the trainable parameters; 1-d parameters (biases, norms) do not decay.

    Groups and their parameters are in the order of timm's `param_groups_weight_decay`, so that
    MAE's code can resume from a checkpoint's "optimizer".

    opt: AdamW, FusedAdam of NVIDIA apex, or Muon, whose matrices are in further groups. one_pass:
    update by our kernel, not by torch's AdamW. for_graph: for recording as a CUDA graph; the rate
    of each group is then a tensor. Raises ValueError if apex is missing or not NVIDIA's, or if Muon
    has no matrices.
    """
    matrices = list(muon_groups(module, weight_decay)) if opt == MUON else []
    of_muon = {id(p) for group in matrices for p in group["params"]}
    trainable = [p for p in module.parameters() if p.requires_grad and id(p) not in of_muon]
    groups = [
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        *matrices,
    ]
    if opt == APEX_ADAM:
        return _apex_adam()(groups, lr=lr, betas=BETAS, adam_w_mode=True)
    rate = torch.tensor(lr, device=trainable[0].device) if for_graph else lr
    make = MuonAdamW if opt == MUON else adamw(one_pass)
    return make(groups, lr=rate, betas=BETAS, capturable=for_graph)


def adamw(one_pass: bool) -> MakeAdamW:
    """Return the AdamW with our update, or with torch's fused one."""
    return OnePassAdamW if one_pass else functools.partial(torch.optim.AdamW, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; groups with an "lr_scale" (layer decay) take that share of it."""
    for group in optimizer.param_groups:
        scaled = lr * group.get("lr_scale", 1.0)
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return its `state_dict` with learning rates as numbers, even if they are tensors here."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of an unsharded `state_dict`; settings stay those of this optimizer.

    Learning rates take the saved values, and stay tensors or numbers as they are here. Raises
    ValueError if the moments belong to other parameters.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    saved = shard_state_like(_in_order(state, optimizer), optimizer)
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**theirs, **ours, "params": theirs["params"], "lr": float(theirs["lr"])}
        for theirs, ours in zip(saved["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate.fill_(group["lr"]) if torch.is_tensor(rate) else group["lr"]


def _in_order(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state with groups and parameter numbers in this optimizer's order: checkpoints of
    format 1 have the two groups the other way round."""
    groups = state["param_groups"]
    for order in (groups, groups[::-1]):
        if _fits([[state["state"].get(n, {}) for n in g["params"]] for g in order], optimizer):
            old = [number for group in order for number in group["params"]]
            new = {number: position for position, number in enumerate(old)}
            return {
                "state": {new[n]: values for n, values in state["state"].items() if n in new},
                "param_groups": [{**g, "params": [new[n] for n in g["params"]]} for g in order],
            }
    raise ValueError("the optimizer's state is of other parameters than this run trains")


def _fits(groups: list[list[dict[str, Any]]], optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the moments in `groups` have the shapes of the optimizer's parameters."""
    own = [[p.shape for p in group["params"]] for group in optimizer.param_groups]
    if [len(group) for group in groups] != [len(group) for group in own]:
        return False
    return all(
        value.shape in (shape, torch.Size())
        for group, shapes in zip(groups, own, strict=True)
        for values, shape in zip(group, shapes, strict=True)
        for value in values.values()
        if torch.is_tensor(value)
    )


def _apex_adam() -> type[torch.optim.Optimizer]:
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ValueError(
            f"--opt apex_adam needs NVIDIA apex ({error}), built from its repository with "
            "--cpp_ext --cuda_ext (the apex of PyPI is another project); --opt adamw needs nothing"
        ) from error
    return FusedAdam
