"""A step of a model and of its accelerated twin, with the same weights, masks, random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.habits.base import Habit
from fastimae.foreign_models.mae_methods import masking_site
from fastimae.foreign_models.mae_proofs import recorded_masks, repeater
from fastimae.kernels import Mask

Found = dict[str, Tensor]


def both(habit: Habit, twin: nn.Module, model: nn.Module, imgs: Tensor) -> tuple[Found, Found]:
    """Return what a step of the accelerated model and one of the untouched twin give: see `step`.

    Where the model draws masks of ours, the twin repeats them.
    """
    with recorded_masks(model) as drawn:
        ours = step(habit, model, imgs)
    site = masking_site(model)
    with _repeating(twin, site.name if site else "", drawn):
        return ours, step(habit, twin, imgs)


def step(habit: Habit, model: nn.Module, imgs: Tensor) -> Found:
    """Return loss, further outputs and gradients, by name."""
    model.zero_grad()
    torch.manual_seed(7)
    loss, *others = habit.step(model, imgs)
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {f"output {number}": each.detach() for number, each in enumerate(others, 1)}
    named = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    return found | {f"gradient of {name}": gradient.clone() for name, gradient in named}


def differences(ours: Found, theirs: Found) -> tuple[float, float]:
    """Return how far the loss and all gradients, as one vector, are off, relative to the twin's."""

    def gap(names: list[str]) -> float:
        a, b = (torch.cat([x[name].double().flatten() for name in names]) for x in (ours, theirs))
        return ((a - b).norm() / b.norm()).item()

    return gap(["loss"]), gap([name for name in theirs if name.startswith("gradient")])


@contextlib.contextmanager
def _repeating(twin: nn.Module, name: str, drawn: list[Mask]) -> Iterator[None]:
    if drawn:
        setattr(twin, name, repeater(drawn))
    yield
    twin.__dict__.pop(name, None)
