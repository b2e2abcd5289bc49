"""Checkpoints to compare: the model of each, a short name, and how it was trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fastimae.interop.hints import Hints
from fastimae.interop.load import load_model
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import IMAE, MAE, OBJECTIVES
from fastimae.objectives.choice import objective_title

ELSEWHERE = Hints({})
"""For files that a command has no flags for: fastimae-import's settle what they do not tell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestant:
    """A checkpoint that is measured beside others."""

    name: str
    """Short, and different from the others'."""
    path: Path
    model: MaskedAutoencoder
    args: dict[str, Any]
    """Settings of its training where the file has them, else empty."""

    @property
    def kind(self) -> str:
        """A user's own objective, else MAE, or i-MAE with or without distillation where the file
        says."""
        named = self.args.get("objective", "mae")
        if named not in OBJECTIVES:
            return objective_title(named)
        if self.model.heads == 1:
            return MAE.title
        if not self.args:
            return IMAE.title
        return f"{IMAE.title}, {'' if self.args.get('teacher') else 'not '}distilled"


def load_contestants(
    paths: Sequence[Path], device: torch.device, **of_first: Any
) -> list[Contestant]:
    """Models with their decoders, frozen, on the device.

    of_first: what the user says of the model in the first file, as `load_model` takes it; the
    others have to say it themselves. Raises CheckpointError.
    """
    said = [of_first, *({"hints": ELSEWHERE} for _ in paths[1:])]
    models = [frozen(path, device, **one) for path, one in zip(paths, said, strict=True)]
    return [
        Contestant(name=title, path=path, model=model, args=dict(model.args))
        for title, path, model in zip(names_of(paths), paths, models, strict=True)
    ]


def frozen(path: Path, device: torch.device, **of_model: Any) -> MaskedAutoencoder:
    """The whole model of a checkpoint in eval mode, without gradients.

    of_model: what the user says of the model, as `load_model` takes it. Raises CheckpointError,
    also for a file that holds an encoder only.
    """
    return load_model(path, device=device, **of_model).eval().requires_grad_(False)


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each path: its folder's, with as much of the path as tells them apart."""
    parts = [path.resolve().with_suffix("").parts for path in paths]
    by_folder = (["/".join(part[-n:-1]) for part in parts] for n in (2, 3))
    by_file = (["/".join(part[-n:]) for part in parts] for n in (1, 2, 3, 4))
    for names in (*by_folder, *by_file):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{part[-1]} ({number})" for number, part in enumerate(parts, 1)]
