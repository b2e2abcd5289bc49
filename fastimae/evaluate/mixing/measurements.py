"""Measures of reconstructions, summed batch by batch, and the few pictures to draw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastimae.evaluate.mixing.mask_units import mask_columns
from fastimae.evaluate.mixing.reconstruction import Reconstruction
from fastimae.evaluate.mixing.subjects import Subject
from fastimae.pictures.display import Display
from fastimae.pictures.quality import quality


class Setting(NamedTuple):
    """What is reconstructed: by which of the subjects, and how it is masked and mixed."""

    subject: int
    mask_ratio: float
    mix_ratio: float | None
    """None for clean images."""


class Measurements:
    """What has been reconstructed so far: sums of the measures, and the first pictures."""

    def __init__(self, pictures: int, display: Display) -> None:
        """pictures: images to keep of the first batch, at each setting. display: how to show
        them."""
        self.pictures, self.display, self.note = pictures, display, ""
        self.images: Counter[Setting] = Counter()
        self.sums: dict[tuple[Setting, str, str], dict[str, float]] = {}
        """By setting, branch and view; of each measure, over all images."""
        self.drawn: dict[Setting, Reconstruction] = {}

    def add(self, setting: Setting, result: Reconstruction) -> None:
        """Add a batch."""
        if setting not in self.drawn:
            self.drawn[setting] = result.first(self.pictures, self.display)
            self.note = self.display.note(result.given.dtype)
        self.images[setting] += len(result.given)
        for branch, truth in result.truths.items():
            for view, pictures in result.views.items():
                if branch in pictures:
                    sums = self.sums.setdefault((setting, branch, view), defaultdict(float))
                    for name, values in quality(pictures[branch], truth).items():
                        sums[name] += float(values.double().sum())

    def table(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """Return a row for each setting, branch and view: means over the images.

        Rows name the model if there are several subjects.
        """
        return [
            self._row(subjects[setting.subject], setting, len(subjects) > 1)
            | {"branch": branch, "view": view, **self.means(setting, branch, view)}
            for setting, branch, view in self.sums
        ]

    def means(self, setting: Setting, branch: str, view: str) -> dict[str, float]:
        """Return the measures of one view of a branch, as means over the images."""
        sums = self.sums[setting, branch, view]
        return {name: value / self.images[setting] for name, value in sums.items()}

    def _row(self, subject: Subject, setting: Setting, named: bool) -> dict[str, Any]:
        masks = mask_columns(subject.candidate.model, setting.mask_ratio, subject.unit)
        mixing = {} if setting.mix_ratio is None else {"mix_ratio": setting.mix_ratio}
        return {
            **(subject.columns if named else {}),
            "mask_ratio": setting.mask_ratio,
            **masks,
            **mixing,
            "images": self.images[setting],
        }
