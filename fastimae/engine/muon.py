"""--opt muon: Muon for the matrices of transformer blocks, our AdamW for all other parameters.

N = matrices of one shape, A x B = that shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.blocks import blocks
from fastimae.engine.one_pass_adamw import OnePassAdamW
from fastimae.engine.precision import DTYPES, resolve_precision

MOMENTUM = 0.95
_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
_EPS = 1e-7
_RMS = 0.2
"""Root mean square of an update at a rate of 1, like that of AdamW's."""
_PACKED = {"qkv.weight": 3, "kv.weight": 2}
"""How many matrices the layers of these names pack: Jordan applies Muon to each by itself."""


class MuonAdamW(OnePassAdamW):
    """Muon (Jordan et al., 2024) in groups that have "matrices", in others `OnePassAdamW`.

    An update is the orthogonalised Nesterov momentum of a matrix, times 0.2 sqrt(max(A, B)): so
    rate and weight decay mean what they mean for AdamW (Liu et al., 2025, section 2.2). This is
    `torch.optim.Muon` with adjust_lr_fn="match_rms_adamw", but for all matrices of a shape at once,
    on gradients of bf16 copies, clipped, and without waiting for a device, so that it can be
    recorded as a CUDA graph. "matrices": how many, of equal height, each parameter of the group
    packs.
    """

    def _move(self, groups: list[dict[str, Any]], scale: Tensor | None) -> None:
        super()._move([group for group in groups if "matrices" not in group], scale)
        for group in groups:
            if "matrices" in group:
                members: dict[torch.Size, list[nn.Parameter]] = {}
                for parameter in group["params"]:
                    if self._gradient(parameter) is not None:
                        members.setdefault(parameter.shape, []).append(parameter)
                for of_a_shape in members.values():
                    self._move_matrices(of_a_shape, group, scale)

    def _move_matrices(
        self, members: list[nn.Parameter], group: dict[str, Any], scale: Tensor | None
    ) -> None:
        """Update a group's parameters of one shape, and their copies."""
        states = [self._momentum(parameter) for parameter in members]
        momenta = [state["momentum_buffer"] for state in states]
        torch._foreach_add_([state["step"] for state in states], 1)
        update_NAB = torch.stack([self._gradient(p) for p in members]).float()
        if scale is not None:
            update_NAB *= scale
        torch._foreach_lerp_(momenta, list(update_NAB.unbind()), 1 - MOMENTUM)
        torch._foreach_lerp_(list(update_NAB.unbind()), momenta, MOMENTUM)  # Nesterov's
        unpacked_NAB = update_NAB.unflatten(1, (group["matrices"], -1)).flatten(0, 1)
        direction_NAB = orthogonalised(unpacked_NAB)
        size = _RMS * math.sqrt(max(direction_NAB.shape[1:]))
        change_NAB = direction_NAB.reshape(update_NAB.shape).float() * (-size * group["lr"])
        torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(members, list(change_NAB.unbind()))
        copies = {} if self.copies is None else self.copies.of
        if copied := [parameter for parameter in members if parameter in copies]:
            torch._foreach_copy_([copies[parameter] for parameter in copied], copied)

    def _momentum(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state


def orthogonalised(matrices_NAB: Tensor) -> Tensor:
    """Return matrices [N, A, B] with all singular values near 1, between 0.7 and 1.2.

    By five steps of the Newton-Schulz iteration with Jordan's coefficients, in bf16; in fp32 where
    bf16 is slow.
    """
    x = matrices_NAB.to(DTYPES[resolve_precision("auto", matrices_NAB.device)])
    x = x.mT if (tall := x.shape[1] > x.shape[2]) else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_STEPS):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x = torch.baddbmm(x, gram, x, beta=_A)
    return x.mT if tall else x


def muon_groups(module: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    """Yield groups of the matrices of the module's blocks that are trained, for `MuonAdamW`.

    Raises ValueError, naming the flag, if it has none.
    """
    found: dict[int, list[nn.Parameter]] = {}
    for block in blocks(module):
        for name, parameter in block.named_parameters():
            if parameter.requires_grad and parameter.ndim == 2:
                packed = (n for end, n in _PACKED.items() if f".{name}".endswith(f".{end}"))
                found.setdefault(next(packed, 1), []).append(parameter)
    if not found:
        raise ValueError("--opt muon trains the matrices of transformer blocks: there are none")
    for matrices, parameters in sorted(found.items()):
        yield {"params": parameters, "weight_decay": weight_decay, "matrices": matrices}
