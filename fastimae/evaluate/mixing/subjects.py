"""What fastimae-eval reconstruct measures: models, each with what it is fed.

A model with two heads is fed mixtures, and so is one that was trained on mixtures without heads. A
MAE is fed clean images; beside a model of mixtures it is fed both, one after the other, as in rows
(a) and (b) of figure 4 of the i-MAE paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fastimae.evaluate.candidates import Candidate, check_same_images
from fastimae.evaluate.differences import DIFFERENCES, difference_of, trained_with
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
    mixing = any(candidate.of_mixtures for candidate in candidates)
    subjects = []
    for candidate in candidates:
        unit, both = mask_unit_of(candidate, mask_patch_size), not candidate.of_mixtures
        for mixed in (True, False) if mixing and both else (mixing,):
            fed = ("fed the mixture" if mixed else "fed the image") if mixing and both else ""
            subjects.append(Subject(candidate=candidate, unit=unit, mixed=mixed, fed=fed))
    return subjects


def check_ratios(subjects: Sequence[Subject], mask_ratios: Sequence[float]) -> None:
    """Raise ConfigError for a --mask_ratios at which a model sees nothing, or all it can."""
    for subject in subjects:
        check_masks(subject.candidate.model, mask_ratios, "--mask_ratios", subject.unit)


def row_titles(subjects: Sequence[Subject]) -> list[str]:
    """Return a title for each subject in figures: name, kind, what tells all trainings apart."""
    difference = difference_of(candidates_in(subjects))
    return [_row_title(subject, difference) for subject in subjects]


def candidates_in(subjects: Sequence[Subject]) -> list[Candidate]:
    """Return the models of the subjects, each once."""
    return list({subject.candidate.name: subject.candidate for subject in subjects}.values())


def _row_title(subject: Subject, difference: str | None) -> str:
    name, kind = subject.candidate.name, subject.candidate.kind
    parts = [name if name == kind else f"{name} ({kind})"]
    if difference:
        value = trained_with(subject.candidate)[difference]
        parts.append(DIFFERENCES[difference].short.format(value))
    return ", ".join(filter(None, (*parts, subject.fed)))
