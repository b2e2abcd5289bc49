"""torch's AdamW with an update that reads and writes each parameter only once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.engine.weight_copies import WeightCopies
from fastimae.kernels.adamw import AdamWUpdate, ParameterTensors


class OnePassAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, with the same state and settings, updated by `fastimae.kernels.adamw`.

    copies: if set, they hold gradients, and are written with the masters. max_norm: if set, the
    largest norm of all gradients together, as in `torch.nn.utils.clip_grad_norm_`. Raises
    ValueError for torch's amsgrad and maximize, which the kernel lacks.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, fused=True, **settings)
        self._step_supports_amp_scaling = False  # a GradScaler must unscale gradients itself
        self.copies: WeightCopies | None = None
        self.max_norm: float | None = None
        self._update = AdamWUpdate()

    def __getstate__(self) -> dict[str, Any]:
        """Add our attributes, which torch's method leaves out, for `copy.deepcopy`."""
        return {**super().__getstate__(), "copies": self.copies, "max_norm": self.max_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the attributes; torch also calls this to load a `state_dict`."""
        super().__setstate__(state)
        if not hasattr(self, "_update"):
            self._update, self._step_supports_amp_scaling = AdamWUpdate(), False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        for name in ("amsgrad", "maximize"):
            if param_group.get(name, self.defaults[name]):
                raise ValueError(f"OnePassAdamW has no {name}: use torch.optim.AdamW")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters that have gradients, without waiting for a device."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        scale = None
        if self.max_norm is not None:
            gradients = [g for p in parameters if (g := self._gradient(p)) is not None]
            scale = clip_scale(gradients, self.max_norm) if gradients else None
        self._move(self.param_groups, scale)
        if self.copies is not None:
            self.copies.written()

    def _move(self, groups: list[dict[str, Any]], scale: Tensor | None) -> None:
        """Update the groups' parameters and copies. scale: of gradients, see `AdamWUpdate`."""
        tensors: dict[tuple, list[ParameterTensors]] = {}
        for group in groups:
            settings = tuple(group["betas"]), group["eps"]
            tensors.setdefault(settings, []).extend(self._tensors(group))
        for (betas, eps), members in tensors.items():
            self._update(members, scale, betas=betas, eps=eps)

    def _gradient(self, parameter: nn.Parameter) -> Tensor | None:
        return parameter.grad if self.copies is None else self.copies.gradient(parameter)

    def _tensors(self, group: dict[str, Any]) -> Iterator[ParameterTensors]:
        copies = self.copies
        for parameter in group["params"]:
            if (gradient := self._gradient(parameter)) is not None:
                state = self._moments(parameter)
                yield ParameterTensors(
                    parameter, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"],
                    None if copies is None else copies.of.get(parameter),
                    group["lr"], group["weight_decay"],
                )  # fmt: skip

    def _moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the parameter's state, made before the first step as torch's AdamW makes it."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def clip_scale(gradients: list[Tensor], max_norm: float) -> Tensor:
    """Return the fp32 scalar to multiply gradients by so that their norm is at most max_norm.

    This is `torch.nn.utils.clip_grad_norm_` without the multiplication. Norms of 16-bit gradients
    are summed in fp32.
    """
    widest = functools.reduce(torch.promote_types, (x.dtype for x in gradients), torch.float32)
    norms = torch._foreach_norm(gradients, 2, dtype=widest)
    total = torch.linalg.vector_norm(torch.stack(norms)).float()
    return (max_norm / (total + 1e-6)).clamp(max=1.0)
