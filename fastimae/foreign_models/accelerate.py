"""`accelerate`: FastIMAE's kernels in a foreign masked autoencoder, if proven equivalent."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from fastimae.foreign_models.equivalence import devices_of, list_differences, outputs_and_gradients
from fastimae.foreign_models.prove import (
    METHODS,
    prove_attention,
    recorded_masks,
    replacements_of,
    without_replacements,
)
from fastimae.foreign_models.replacements import Replacement, looks_like_attention
from fastimae.log import log

_USUAL_LENGTH = 257
"""Tokens of a sequence if the model has no positions: 16 x 16 patches and a class token."""


@dataclasses.dataclass(frozen=True)
class Report:
    """The parts that `accelerate` replaced, and those it left alone, each with the reason."""

    replaced: list[str] = dataclasses.field(default_factory=list)
    left: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"replaced {_group_names(self.replaced) or 'nothing'}"]
        for why in dict.fromkeys(self.left.values()):
            names = [name for name, reason in self.left.items() if reason == why]
            lines.append(f"left {_group_names(names)}: {why}")
        return "\n".join(lines)


class AccelerationError(RuntimeError):
    """The accelerated model differs from the original. The message names what differs."""


def accelerate(model: nn.Module, debug: bool = False) -> nn.Module:
    """Replace parts of a MAE-style module by FastIMAE's kernels, and report which.

    model: has MAE's methods `random_masking(x, mask_ratio)`, `forward_encoder(imgs, mask_ratio)`,
    `forward_decoder(x, ids_restore)`, `forward_loss(imgs, pred, mask)`, or some of them; imgs are
    float [B, C, H, W]. Its attention modules have timm's `qkv`, `proj` and `num_heads`. Move it to
    its device first, and call this again after moving it.

    A part is replaced only if, first, its method can be analysed and does nothing that may change
    later (the rules are in `foreign_models.static_analysis`), and no hook, parametrization or
    replaced forward is on a module that would no longer be called; and if, second, it gives the
    same outputs and gradients on random weights and inputs, in training and evaluation mode and
    under autocast. Trials call the model's parts, and with them their hooks.

    All that the analysis relied on is checked again in each call. If it has changed (dropout, a
    hook on one module or on all, another method, class, constant, device or number format), and
    for calls that a replacement does not support (an attention mask, mask_ratio=0, images of
    another size or that require a gradient, more tokens than the model has positions), the
    original method runs; a change is logged once per part. Parameters and their names stay. Masks
    are as random as before, but not the same ones. The loss has no second derivative.

    A method that branches on a size which the trials do not vary, such as that of the batch
    (`if len(x) > 64`), is not detected. Replicas of nn.DataParallel run the original methods.
    `copy.copy(model)` shares replacements, which keep using the first model's modules: use
    copy.deepcopy.

    debug: the first call of the model is also computed with the original methods, with the same
    masks and random numbers; AccelerationError names the outputs and gradients that differ.

    Returns the same object, with a `Report` as `model.fastimae_report`. Raises TypeError if it has
    none of the methods.
    """
    for replacement in replacements_of(model):
        replacement.remove()
    if not any(callable(getattr(model, name, None)) for name in METHODS):
        raise TypeError(f"{type(model).__name__} has none of MAE's methods: {', '.join(METHODS)}")
    report, longest = Report(), _longest_sequence(model)
    for path, module in model.named_modules():
        if module is not model and looks_like_attention(module):
            _try(report, path, functools.partial(prove_attention, module, longest, path))
    for name, prove in METHODS.items():
        _try(report, name, functools.partial(prove, model))
    model.fastimae_report = report
    if debug:
        model.forward = functools.partial(_first_call, model)
    log.info("accelerate: %s", report)
    return model


def _longest_sequence(model: nn.Module) -> int:
    """Return the largest number of tokens that the model has positions for."""
    positions = (getattr(model, name, None) for name in ("pos_embed", "decoder_pos_embed"))
    counts = [p.shape[1] for p in positions if isinstance(p, torch.Tensor) and p.ndim == 3]
    return max(counts, default=_USUAL_LENGTH)


def _try(report: Report, name: str, prove: Callable[[], Replacement]) -> None:
    """Install one replacement; if its trial raises, put the reason into the report."""
    try:
        prove().install()
        report.replaced.append(name)
    except (TypeError, ValueError) as reason:
        report.left[name] = str(reason)
    except Exception as error:  # a foreign module may raise anything; it is left alone
        report.left[name] = f"a trial fails: {type(error).__name__}: {error}"


def _group_names(names: Iterable[str]) -> str:
    """Write blocks.0.attn, blocks.1.attn, ... as one: blocks.*.attn (12)."""
    families = collections.Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names)
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in families.items())


def _first_call(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Replace the model's `forward` for one call: compute both ways and compare."""
    parameters = dict(model.named_parameters())
    del model.forward
    with torch.random.fork_rng(devices_of(model)), recorded_masks(model) as drawn:
        outputs = model.forward(*args, **kwargs)
    with without_replacements(model, drawn):  # which meets the same random numbers
        expected = model.forward(*args, **kwargs)
    differing = list_differences(
        outputs_and_gradients(outputs, parameters), outputs_and_gradients(expected, parameters)
    )
    if differing:
        raise AccelerationError(
            f"accelerate: the first call differs from the original's: {', '.join(differing)}"
        )
    return outputs
