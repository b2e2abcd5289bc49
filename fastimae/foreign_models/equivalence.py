"""Comparison of two functions of a module: outputs and gradients, with any weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.foreign_models.bytecode import Unreadable

# Largest difference that still counts as equal, as a share of the largest value.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_TOLERANCE_TF32 = 5e-3
_TOLERANCE_AUTOCAST = 0.1


class Undecided(Exception):
    """A call that shows nothing: its values are not finite, or its tensors are not plain ones."""


def find_difference(
    module: nn.Module,
    after: Callable[..., Any],
    before: Callable[..., Any],
    values: tuple,
    wrt: dict[str, Tensor],
    weights: dict[str, Tensor],
    *,
    multiplies: bool = True,
) -> str:
    """Compare two functions of the same values and describe the first difference, "" if none.

    Both are called in the module's mode and under the autocast of this moment, `after` first, from
    the same state of the random generators, with the `weights` (see `with_parameters`).
    wrt: the values' tensors, by name; gradients of those that require one are compared, too.
    multiplies: the functions multiply matrices, so TensorFloat-32 may cause small differences.
    The module is left unchanged. Raises Undecided if a value is not finite.
    """
    device = next((x.device.type for x in wrt.values()), "cpu")
    tolerance = None if multiplies else _TOLERANCE.get(_dtype(wrt), 1e-2)
    if torch.is_autocast_enabled(device):
        tolerance = _TOLERANCE_AUTOCAST
    compared, failures = [], []
    for function in (after, before):
        try:
            compared.append(_run(module, function, values, weights, wrt))
        except (Unreadable, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a foreign method may raise anything; it is left alone
            failures.append(f"{type(error).__name__}: {error}")
            compared.append(None)
    ours, theirs = compared
    if failures:
        which = "" if ours is not None or theirs is None else "the replacement "
        return f"{which}fails on a trial: {failures[-1]}"
    if not all(x is None or x.isfinite().all() for x in theirs.values()):
        raise Undecided
    differing = list_differences(ours, theirs, tolerance)
    return f"differs{_circumstances(module, device)}: {differing[0]}" if differing else ""


def _dtype(wrt: dict[str, Tensor]) -> torch.dtype | None:
    return next((x.dtype for x in wrt.values() if x.is_floating_point()), None)


def _circumstances(module: nn.Module, device: str) -> str:
    mode = " in training" if module.training else " in evaluation"
    return mode + (" under autocast" if torch.is_autocast_enabled(device) else "")


def _run(
    module: nn.Module,
    function: Callable[..., Any],
    values: tuple,
    parameters: dict[str, Tensor],
    wrt: dict[str, Tensor],
) -> dict[str, Tensor | None]:
    """Return outputs and gradients; methods may write into their arguments, which are copies."""
    with torch.random.fork_rng(devices_of(module)), torch.enable_grad():
        copies = tuple(v.clone() if isinstance(v, Tensor) else v for v in values)
        outputs = with_parameters(module, parameters, lambda: function(*copies))
        return outputs_and_gradients(outputs, parameters | wrt)


def few(values: tuple, samples: int) -> tuple:
    """Return detached arguments, with the first samples of those that have the batch's length."""
    batch = len(values[0])
    return tuple(
        (v[:samples] if v.ndim and len(v) == batch else v).detach().clone().requires_grad_(
            v.requires_grad
        )
        if isinstance(v, Tensor)
        else v
        for v in values
    )  # fmt: skip


def with_parameters(
    module: nn.Module, parameters: dict[str, Tensor], function: Callable[[], Any]
) -> Any:
    """Call the function while the module has other parameters, and copies of its buffers."""
    buffers = {f"module.{name}": b.clone() for name, b in module.named_buffers()}
    return torch.func.functional_call(_FunctionRunner(module), parameters | buffers, (function,))


def detached(module: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters, without their hooks and gradients, for `with_parameters`."""
    return {
        f"module.{name}": p.detach().clone().requires_grad_(p.requires_grad)
        for name, p in module.named_parameters()
    }


def outputs_and_gradients(outputs: Any, sources: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Return the output's tensors and the gradients of a random sum of them, by name.

    sources: tensors, by name, to take gradients of.
    """
    tensors = dict(named_tensors(outputs))
    sources = {name: source for name, source in sources.items() if source.requires_grad}
    roots = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    if roots and sources:
        random = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=random).to(x) for x in roots.values()]
        gradients = torch.autograd.grad(
            [*roots.values()], [*sources.values()], weights, retain_graph=True, allow_unused=True
        )
        for name, gradient in zip(sources, gradients, strict=True):
            tensors[f"gradient of {name.removeprefix('module.')}"] = gradient
    return {name: x if x is None else x.detach() for name, x in tensors.items()}


def list_differences(
    ours: dict[str, Tensor | None],
    theirs: dict[str, Tensor | None],
    tolerance: float | None = None,
) -> list[str]:
    """List the tensors that differ, each with its name and by how much.

    tolerance: None for that of the number format.
    """
    gaps = ((name, _gap(ours.get(name), theirs.get(name), tolerance)) for name in ours | theirs)
    return [f"{name} {gap}" for name, gap in gaps if gap]


def _gap(a: Tensor | None, b: Tensor | None, tolerance: float | None) -> str:
    if a is None or b is None:  # no gradient is a gradient of zero
        other = b if a is None else a
        return "" if other is None or not other.any() else "exists only in one"
    if a.shape != b.shape:
        return f"has shape {list(a.shape)} instead of {list(b.shape)}"
    if a.dtype != b.dtype:
        return f"is {a.dtype} instead of {b.dtype}"
    if not b.is_floating_point():
        return "" if torch.equal(a, b) else "has other values"
    if tolerance is None:
        tf32 = b.is_cuda and b.dtype == torch.float32
        tolerance = _TOLERANCE_TF32 if tf32 else _TOLERANCE[b.dtype]
    size = max(b.abs().max().item(), 1e-6) if b.numel() else 1.0
    distance = (a - b).abs().max().item() / size if b.numel() else 0.0
    return "" if distance <= tolerance else f"is off by {distance:.1e} of its largest value"


def named_tensors(outputs: Any) -> Iterable[tuple[str, Tensor]]:
    """Return the tensors of an output with their names; a tuple of three is MAE's forward."""
    if isinstance(outputs, Tensor):
        return [("the output", outputs)]
    if isinstance(outputs, dict):
        return [(name, value) for name, value in outputs.items() if isinstance(value, Tensor)]
    if not isinstance(outputs, (tuple, list)):
        return []
    names = ("loss", "pred", "mask") if len(outputs) == 3 else range(len(outputs))
    pairs = zip(names, outputs, strict=True)
    return [(str(name), value) for name, value in pairs if isinstance(value, Tensor)]


class _FunctionRunner(nn.Module):
    """Runs any function of a module, so that `functional_call` can give it other weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def random_parameters(module: nn.Module, kept: tuple[str, ...]) -> dict[str, Tensor]:
    """Draw values that make outputs of the order of 1 and attention far from uniform.

    Those of a fresh model hide differences. kept: prefixes of parameters that stay.
    """
    parameters = detached(module)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in parameters.items():
        if name.removeprefix("module.").startswith(kept):
            continue
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() in (2, 4):  # of a Linear or a convolution: scaled by the fan-in
            values *= 1.5 * parameter[0].numel() ** -0.5
        with torch.no_grad():
            parameter.copy_(values)
    return parameters


def devices_of(module: nn.Module) -> list[torch.device]:
    """Return the GPUs that the module's parameters are on."""
    return list({p.device for p in module.parameters() if p.is_cuda})
