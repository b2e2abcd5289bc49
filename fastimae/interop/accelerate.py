"""Our kernels in a foreign masked autoencoder, where they prove to do the same."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fastimae.interop.probe import devices_of, results, unequal
from fastimae.interop.swaps import Swap, looks_like_attention
from fastimae.interop.trials import (
    METHODS,
    original_methods,
    recording,
    swap_attention,
    swaps_of,
)
from fastimae.log import log

_USUAL_LENGTH = 257
"""Of sequences where no positions tell: 16 x 16 patches and a class token."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What `accelerate` did: the parts it replaced, and those it left, each with the reason."""

    replaced: list[str] = dataclasses.field(default_factory=list)
    left: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"replaced {_counted(self.replaced) or 'nothing'}"]
        for why in dict.fromkeys(self.left.values()):
            names = [name for name, reason in self.left.items() if reason == why]
            lines.append(f"left {_counted(names)}: {why}")
        return "\n".join(lines)


class AccelerationError(RuntimeError):
    """The accelerated model differs from the original. The message names what differs."""


def accelerate(model: nn.Module, debug: bool = False) -> nn.Module:
    """Swap our kernels into a MAE-style module, and say what was swapped.

    model: has MAE's methods `random_masking(x, mask_ratio)`, `forward_encoder(imgs, mask_ratio)`,
    `forward_decoder(x, ids_restore)`, `forward_loss(imgs, pred, mask)`, or some of them; imgs are
    float [B, C, H, W]. Its attention modules have timm's `qkv`, `proj` and `num_heads`. Put it on
    its device first, and call this again where it moves.

    A part is replaced only where, first, its method can be read and does nothing that may change
    later (the rule is in `fastimae.interop.reading`), and no hook, parametrization or forward of
    its own is on a module that would not be called any more; where, second, it gives the same
    outputs and gradients on random weights and inputs, in training and in evaluation mode and
    under autocast. Trials call the model's parts, and with them their hooks.

    What was read is looked at again in each call. Where it has changed (dropout, a hook on one
    module or on all, another method, class, constant, device or number format), and for calls that
    a replacement does not serve (an attention mask, mask_ratio=0, images of another size or that
    require a gradient, more tokens than the model has positions), the original method runs; a
    change is said once for each part. Parameters and their names stay. Masks are as random as
    before, but others. The loss has no second derivative.

    Not found is a method that branches on a size which the trials do not vary, as that of the
    batch (`if len(x) > 64`). Replicas of nn.DataParallel run the original methods.
    `copy.copy(model)` shares swaps, which go on with the modules of the first: use copy.deepcopy.

    debug: the first call of the model is also computed with the original methods, the same masks
    and the same random numbers; AccelerationError names the outputs and gradients that differ.

    Returns the same object, with a `Report` as `model.fastimae_report`. Raises TypeError where it
    has none of the methods.
    """
    for swap in swaps_of(model):
        swap.remove()
    if not any(callable(getattr(model, name, None)) for name in METHODS):
        raise TypeError(f"{type(model).__name__} has none of MAE's methods: {', '.join(METHODS)}")
    report, longest = Report(), _longest(model)
    for path, module in model.named_modules():
        if module is not model and looks_like_attention(module):
            _try(report, path, functools.partial(swap_attention, module, longest, path))
    for name, trial in METHODS.items():
        _try(report, name, functools.partial(trial, model))
    model.fastimae_report = report
    if debug:
        model.forward = functools.partial(_first_call, model)
    log.info("accelerate: %s", report)
    return model


def _longest(model: nn.Module) -> int:
    """How many tokens the model's attention sees at most: of the positions that it has."""
    positions = (getattr(model, name, None) for name in ("pos_embed", "decoder_pos_embed"))
    counts = [one.shape[1] for one in positions if isinstance(one, torch.Tensor) and one.ndim == 3]
    return max(counts, default=_USUAL_LENGTH)


def _try(report: Report, name: str, trial: Callable[[], Swap]) -> None:
    """Swap one part; where its trial raises, the reason is in the report."""
    try:
        trial().install()
        report.replaced.append(name)
    except (TypeError, ValueError) as reason:
        report.left[name] = str(reason)
    except Exception as error:  # a foreign module may raise anything; it is left alone
        report.left[name] = f"a trial fails: {type(error).__name__}: {error}"


def _counted(names: Iterable[str]) -> str:
    """blocks.0.attn and its likes as one: blocks.*.attn (12)."""
    families = collections.Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in families.items())


def _first_call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stands for the model's `forward` once: computes both ways and compares."""
    parameters = dict(model.named_parameters())
    del model.forward
    with torch.random.fork_rng(devices_of(model)), recording(model) as drawn:
        outputs = model.forward(*args, **kwargs)
    with original_methods(model, drawn):  # which meets the same random numbers
        expected = model.forward(*args, **kwargs)
    unlike = unequal(results(outputs, parameters), results(expected, parameters))
    if unlike:
        raise AccelerationError(
            f"accelerate: the first call differs from the original's: {', '.join(unlike)}"
        )
    return outputs
