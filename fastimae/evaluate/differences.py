"""How the trainings of models side by side differ, and the labels of figures that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastimae.evaluate.candidates import Candidate
from fastimae.evaluate.mixing.mask_units import trained_mask_size


class Words(NamedTuple):
    """How figures name a setting."""

    axis: str
    short: str
    """With its value, for a label."""
    kind: type | Any = int | float
    """Of its values; others, such as those of an unknown program, are not compared."""


DIFFERENCES = {
    "mask_ratio": Words("masking ratio of the training", "trained {:.0%} masked"),
    "mask_patch_size": Words("mask unit of the training (pixels)", "mask unit {} px"),
    "patch_size": Words("patch size (pixels)", "patch {} px"),
    "same_class_ratio": Words("same-class ratio r of the training", "r = {:g}"),
    "model": Words("model", "{}", str),
}
"""Settings of a training that figures name, or are drawn over: the first in which all models
differ. Hierarchical paper, figures 5 and 9; i-MAE paper, figures 11 and 5."""


def trained_with(candidate: Candidate) -> dict[str, Any]:
    """Return the settings in `DIFFERENCES` of a model's training; None where unknown."""
    found = {name: candidate.args.get(name) for name in DIFFERENCES} | {
        "mask_patch_size": trained_mask_size(candidate),
        "patch_size": candidate.model.patch_size,
    }
    return {
        name: value if isinstance(value, DIFFERENCES[name].kind) else None
        for name, value in found.items()
    }


def difference_of(candidates: Sequence[Candidate]) -> str | None:
    """Return the setting in `DIFFERENCES` that tells all models apart; None if there is none."""
    for name in _differing(candidates):
        values = {trained_with(each)[name] for each in candidates}
        if len(values) == len(candidates) and None not in values:
            return name
    return None


def labels_of(candidates: Sequence[Candidate]) -> list[str]:
    """Return each candidate's name, and in lines below it what all trainings do not have alike."""
    differing = _differing(candidates)
    several = len({candidate.kind for candidate in candidates}) > 1
    labels = []
    for candidate in candidates:
        settings = trained_with(candidate)
        known = [name for name in differing if settings[name] is not None]
        lines = [DIFFERENCES[name].short.format(settings[name]) for name in known]
        labels.append("\n".join([candidate.name, *[candidate.kind] * several, *lines]))
    return labels


def _differing(candidates: Sequence[Candidate]) -> list[str]:
    """Return the settings in `DIFFERENCES` that not all have alike.

    Patches of different sizes come with mask units, and names of models, of the same sizes: this
    counts as the patches'.
    """
    found = [trained_with(candidate) for candidate in candidates]
    names = [name for name in DIFFERENCES if len({settings[name] for settings in found}) > 1]
    follow = ("mask_patch_size", "model") if "patch_size" in names else ()
    return [name for name in names if name not in follow]
