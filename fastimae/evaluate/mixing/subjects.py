"""What fastimae-eval reconstruct measures: models, each with what it is fed, and how they differ.

A model with two heads is fed mixtures, and so is one that was trained on mixtures without heads. A
MAE is fed clean images; beside a model of mixtures it is fed both, one after the other, as in rows
(a) and (b) of figure 4 of the i-MAE paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastimae.evaluate.candidates import Candidate, check_same_images
from fastimae.evaluate.mixing.mask_units import check_masks, mask_unit_of
from fastimae.objectives.imae import BRANCHES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model, how its images are masked, and what it is fed."""

    candidate: Candidate
    unit: int
    """Side, in patches, of the squares that are masked as a whole."""
    mixed: bool
    """Whether it is fed mixtures; if not, clean images."""
    fed: str = ""
    """The same for figures, if another subject is the same model fed otherwise."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The branches of mixtures that the model was trained to reconstruct, see --targets."""
        only = self.candidate.args.get("targets")
        return (only,) if only in BRANCHES else BRANCHES

    @property
    def columns(self) -> dict[str, str]:
        """What a table says of it."""
        fed = "mixture" if self.mixed else "image"
        return {"model": self.candidate.name, "kind": self.candidate.kind, "input": fed}


def subjects_of(candidates: Sequence[Candidate], mask_patch_size: int | None) -> list[Subject]:
    """Return what to measure, in the order of the candidates.

    mask_patch_size: see `mask_unit_of`. Raises ConfigError, also for models that cannot be shown
    the same images.
    """
    check_same_images(candidates)
    mixing = any(map(_is_of_mixtures, candidates))
    subjects = []
    for candidate in candidates:
        unit, both = mask_unit_of(candidate, mask_patch_size), not _is_of_mixtures(candidate)
        for mixed in (True, False) if mixing and both else (mixing,):
            fed = ("fed the mixture" if mixed else "fed the image") if mixing and both else ""
            subjects.append(Subject(candidate=candidate, unit=unit, mixed=mixed, fed=fed))
    return subjects


def check_ratios(subjects: Sequence[Subject], mask_ratios: Sequence[float]) -> None:
    """Raise ConfigError for a --mask_ratios at which a model sees nothing, or all it can."""
    for subject in subjects:
        check_masks(subject.candidate.model, mask_ratios, "--mask_ratios", subject.unit)


class Words(NamedTuple):
    """How figures name a setting."""

    axis: str
    short: str
    """With its value, for a label."""


DIFFERENCES = {
    "mask_ratio": Words("masking ratio of the training", "trained {:.0%} masked"),
    "mask_patch_size": Words("mask unit of the training (pixels)", "mask unit {} px"),
    "patch_size": Words("patch size (pixels)", "patch {} px"),
    "same_class_ratio": Words("same-class ratio r of the training", "r = {:g}"),
    "model": Words("model", "{}"),
}
"""Settings of a training over which measures are drawn: the first in which all models differ.
Hierarchical paper, figures 5 and 9; i-MAE paper, figures 11 and 5."""


def difference_of(subjects: Sequence[Subject]) -> str | None:
    """Return the setting in `DIFFERENCES` that tells all models apart; None if there is none.

    Patches of different sizes come with mask units of the same sizes: this counts as the patches'.
    """
    models = {subject.candidate.name: trained_with(subject.candidate) for subject in subjects}
    of_patches = len({settings["patch_size"] for settings in models.values()}) > 1
    for name in DIFFERENCES:
        values = {settings[name] for settings in models.values()}
        apart = len(values) == len(models) > 1
        if name == "mask_patch_size" and of_patches:
            continue
        kind = str if name == "model" else int | float
        if apart and all(isinstance(value, kind) for value in values):
            return name
    return None


def labels_of(subjects: Sequence[Subject]) -> list[str]:
    """Return a label for each subject in figures: name, kind, what its training differs in."""
    difference = difference_of(subjects)
    return [_label(subject, difference) for subject in subjects]


def trained_with(candidate: Candidate) -> dict[str, Any]:
    """Return the settings in `DIFFERENCES` of a model's training; None where unknown."""
    patch_size = candidate.model.patch_size
    return {
        "mask_ratio": candidate.args.get("mask_ratio"),
        "mask_patch_size": mask_unit_of(candidate, None) * patch_size,
        "patch_size": patch_size,
        "same_class_ratio": candidate.args.get("same_class_ratio"),
        "model": candidate.args.get("model"),
    }


def _is_of_mixtures(candidate: Candidate) -> bool:
    return candidate.model.heads == 2 or candidate.args.get("objective") == "imae"


def _label(subject: Subject, difference: str | None) -> str:
    name, kind = subject.candidate.name, subject.candidate.kind
    parts = [name if name == kind else f"{name} ({kind})"]
    if difference:
        value = trained_with(subject.candidate)[difference]
        parts.append(DIFFERENCES[difference].short.format(value))
    return ", ".join(filter(None, (*parts, subject.fed)))
