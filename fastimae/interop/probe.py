"""Whether two functions of a module do the same: outputs and gradients, on random weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastimae.interop.bytecode import Unreadable

# Largest difference that counts as none, as a share of the largest value.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_TOLERANCE_TF32 = 5e-3
_TOLERANCE_AUTOCAST = 0.1
_MODES = {"evaluation": (False, False), "training": (True, False), "autocast": (True, True)}
"""Name of a trial: whether in training mode, whether under autocast to bfloat16."""
_BLOCKS = ("blocks.", "decoder_blocks.")


def difference(
    module: nn.Module,
    after: Callable[[], Any],
    before: Callable[[], Any],
    wrt: dict[str, Tensor],
    *,
    multiplies: bool = True,
) -> str:
    """What differs between two functions without arguments; "" where nothing does.

    Both are called in evaluation and in training mode and under autocast, `after` first, from the
    same state of the random generators, while the module's parameters are random: those of a fresh
    model hide much. What the module itself cannot do under autocast is not asked for.
    The module is left as it was. wrt: inputs, by name, whose gradients are compared, too.
    multiplies: matrices, so that TensorFloat-32 may tell.
    """
    probe = _Probe(module)
    parameters = _random_parameters(module)
    like = next(module.parameters())
    for name, (training, autocast) in _MODES.items():
        found, failures = [], []
        with mode(module, training), torch.random.fork_rng(devices_of(module)), torch.enable_grad():
            for function in (after, before):
                torch.manual_seed(0)
                buffers = {f"module.{name}": b.clone() for name, b in module.named_buffers()}
                try:
                    with torch.autocast(like.device.type, torch.bfloat16, enabled=autocast):
                        state = parameters | buffers
                        outputs = torch.func.functional_call(probe, state, (function,))
                    found.append(results(outputs, parameters | wrt))
                except Unreadable:
                    raise
                except Exception as error:  # whatever a foreign method raises, it is left alone
                    failures.append(f"{type(error).__name__}: {error}")
                    found.append(None)
        ours, theirs = found
        if theirs is None and autocast:
            continue
        if failures:
            which = "" if ours is not None or theirs is None else "the replacement "
            return f"{which}fails on a trial: {failures[-1]}"
        tolerance = (
            _TOLERANCE_AUTOCAST if autocast else None if multiplies else _TOLERANCE[like.dtype]
        )
        if unlike := unequal(ours, theirs, tolerance):
            return f"differs {'under' if autocast else 'in'} {name}: {unlike[0]}"
    return ""


def results(outputs: Any, sources: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The output's tensors by name, and gradients of their random sum by the source's name."""
    tensors = dict(_named(outputs))
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


def unequal(
    ours: dict[str, Tensor | None],
    theirs: dict[str, Tensor | None],
    tolerance: float | None = None,
) -> list[str]:
    """Names of what differs between two results, each with by how much. tolerance: None for that
    of the number format."""
    gaps = ((name, _gap(ours.get(name), theirs.get(name), tolerance)) for name in ours | theirs)
    return [f"{name} {gap}" for name, gap in gaps if gap]


def _gap(a: Tensor | None, b: Tensor | None, tolerance: float | None) -> str:
    if a is None or b is None:  # no gradient is a gradient of zero
        other = b if a is None else a
        return "" if other is None or not other.any() else "is not there in both"
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
    apart = (a - b).abs().max().item() / size if b.numel() else 0.0
    return "" if apart <= tolerance else f"is off by {apart:.1e} of its largest value"


def _named(outputs: Any) -> Iterable[tuple[str, Tensor]]:
    """Tensors of an output with a name each; three are MAE's."""
    if isinstance(outputs, Tensor):
        return [("the output", outputs)]
    if isinstance(outputs, dict):
        return [(name, value) for name, value in outputs.items() if isinstance(value, Tensor)]
    if not isinstance(outputs, (tuple, list)):
        return []
    names = ("loss", "pred", "mask") if len(outputs) == 3 else range(len(outputs))
    pairs = zip(names, outputs, strict=True)
    return [(str(name), value) for name, value in pairs if isinstance(value, Tensor)]


class _Probe(nn.Module):
    """Runs any function of a module, so that `functional_call` can lend it other weights."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def _random_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Values that make outputs of the order of one and attention anything but uniform.

    Blocks keep theirs: a method calls them as they are, before and after.
    """
    made = {}
    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        if name.startswith(_BLOCKS):
            continue
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() in (2, 4):  # a Linear's or a convolution's: by its fan-in
            values *= 1.5 * parameter[0].numel() ** -0.5
        made[f"module.{name}"] = values.to(parameter).requires_grad_(parameter.requires_grad)
    return made


@contextlib.contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """The module in training or evaluation mode; afterwards each part is in its own again."""
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def devices_of(module: nn.Module) -> list[torch.device]:
    """The GPUs that its parameters are on."""
    return list({p.device for p in module.parameters() if p.is_cuda})
