"""Candidates: models that are measured side by side, with a short name for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastimae.evaluate.options.base import SeveralOptions
from fastimae.evaluate.pages.tables import format_value
from fastimae.interop.hints import Hints
from fastimae.interop.load import load_model
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.choice import objective_title, run_title
from fastimae.settings import ConfigError, lacks_heads

NO_FLAGS = Hints({})
"""For files that the command has no flags for: errors name those of fastimae-import."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint that is compared with others."""

    name: str
    """Short and unique: see `names_of`."""
    path: Path
    model: MaskedAutoencoder
    args: dict[str, Any]
    """Settings of its training; empty if the file has none."""

    @property
    def kind(self) -> str:
        """The objective's title; for i-MAE also if it has heads and was distilled, where known.

        "encoder" for a file of an encoder alone that does not say how it was trained.
        """
        if not self.args and getattr(self.model, "fresh_decoder", False):
            return "encoder"
        name = self.args.get("objective", "mae")
        if name not in ("mae", "imae"):
            return objective_title(name)
        if not self.of_mixtures:
            return MAE.title
        if not self.args:
            return IMAE.title
        title = run_title({**self.args, "objective": "imae"})
        return f"{title}, {'' if self.args.get('teacher') else 'not '}distilled"

    @property
    def of_mixtures(self) -> bool:
        """Whether it was trained on mixtures, with heads or without."""
        return self.model.heads == 2 or lacks_heads(self.args)


def candidates_of(
    options: SeveralOptions, device: torch.device, *, encoder_only: bool = False
) -> list[Candidate]:
    """Load --checkpoint and --others. Raises CheckpointError.

    encoder_only: the files need no decoder, see `load_model`.
    """
    paths = options.checkpoint, *options.others
    return load_candidates(paths, device, encoder_only=encoder_only, **options.of_model())


def load_candidates(
    paths: Sequence[Path], device: torch.device, *, encoder_only: bool = False, **of_first: Any
) -> list[Candidate]:
    """Load models, frozen, on the device; with their decoders unless `encoder_only`.

    of_first: the user's flags for the model in the first file, as `load_model` takes them; other
    files have to be complete, but their models take the same images. Raises CheckpointError.
    """
    flags = [of_first, *(of_others(of_first) for _ in paths[1:])]
    models = [
        load_frozen(path, device, encoder_only=encoder_only, **known)
        for path, known in zip(paths, flags, strict=True)
    ]
    return [
        Candidate(name=name, path=path, model=model, args=dict(model.args))
        for name, path, model in zip(names_of(paths), paths, models, strict=True)
    ]


def of_others(of_first: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_model` for further models: the same images, if given."""
    return {"hints": NO_FLAGS, **{name: of_first.get(name) for name in ("img_size", "in_chans")}}


def load_frozen(path: Path, device: torch.device, **of_model: Any) -> MaskedAutoencoder:
    """Load encoder and decoder of a checkpoint, in eval mode, without gradients.

    of_model: arguments of `load_model`, such as the user's flags for the model. Raises
    CheckpointError, also for a file that holds only an encoder, unless `encoder_only` is among
    them.
    """
    return load_model(path, device=device, **of_model).eval().requires_grad_(False)


def check_same_images(candidates: Sequence[Candidate]) -> None:
    """Raise ConfigError unless all models take the images of the first."""
    first, *others = candidates
    for other in others:
        for what, one, wanted in (
            ("image size", other.model.img_size, first.model.img_size),
            ("channels", other.model.in_chans, first.model.in_chans),
        ):
            if one != wanted:
                raise ConfigError(
                    f"--others {other.path} has another {what} ({format_value(one)}) than "
                    f"--checkpoint {first.path} ({format_value(wanted)}): they cannot be shown the "
                    f"same images{'; --input_size sets one' * (what == 'image size')}"
                )


def names_of(paths: Sequence[Path]) -> list[str]:
    """Name each path by its folder, with as much of the path as it takes to make names unique."""
    parts = [path.resolve().with_suffix("").parts for path in paths]
    by_folder = (["/".join(part[-n:-1]) for part in parts] for n in (2, 3))
    by_file = (["/".join(part[-n:]) for part in parts] for n in (1, 2, 3, 4))
    for names in (*by_folder, *by_file):
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{part[-1]} ({number})" for number, part in enumerate(parts, 1)]
