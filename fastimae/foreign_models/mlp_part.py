"""MLPs of two Linear layers with the exact GELU between them: timm's, nn.Sequential, forks'."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastimae import kernels
from fastimae.foreign_models.attention_part import noise_like
from fastimae.foreign_models.part import Part
from fastimae.foreign_models.preconditions import Preconditions
from fastimae.foreign_models.static_analysis import NO_OPS, Role, find_preconditions, watch_exact

_ACTIVATIONS = "torch.nn.modules.activation"


def mlp(self: Any, x: Tensor) -> Tensor:
    """Compute both layers and the GELU of x [..., D] by our kernel."""
    first, second = (part for part in self.children() if type(part) is nn.Linear)
    return kernels.mlp(x, first.weight, first.bias, second.weight, second.bias)


def _recognise(module: nn.Module) -> str | None:
    """Recognise two Linear layers, the second of which takes what the first gives, and no more."""
    parts = [part for part in module.children() if type(part) not in NO_OPS]
    layers = [part for part in parts if isinstance(part, nn.Linear)]
    others = [part for part in parts if not isinstance(part, nn.Linear)]
    if len(layers) != 2 or len(others) > 1 or [*module.parameters(recurse=False)]:
        return None
    if layers[0].out_features != layers[1].in_features:
        return None
    for part in others:
        if type(part).__module__ != _ACTIVATIONS:
            return None
        if not (type(part) is nn.GELU and part.approximate == "none"):
            raise TypeError(f"its activation is {part}, and ours the exact GELU")
    if any(type(layer) is not nn.Linear or layer.bias is None for layer in layers):
        raise TypeError("its layers are no nn.Linear with a bias")
    return "forward"


def _preconditions(module: nn.Module, method: str) -> Preconditions:
    names = [name for name, part in module.named_children() if type(part) not in NO_OPS]
    roles = {n: "linear" if isinstance(getattr(module, n), nn.Linear) else "gelu" for n in names}
    if type(module) is not nn.Sequential:
        return find_preconditions(module, method, Role(bypassed=roles))
    found = Preconditions(lengths=[(module, len(module))])
    for name, part in module.named_children():
        found.values.append((module, name, part))
        watch_exact(found, part, roles.get(name, "no-op"))
    if reason := found.change():
        raise ValueError(reason)
    return found


MLP = Part(
    name="mlp",
    recognise=_recognise,
    arguments=1,
    replacement=mlp,
    preconditions=_preconditions,
    more=noise_like,
    devices=("cuda",),
)
