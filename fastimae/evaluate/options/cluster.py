"""Flags of cluster."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from fastimae.evaluate.options.labels import ProbeOptions
from fastimae.pictures.settings import PictureSettings
from fastimae.settings import Expert, Free, PositiveInt, Range

CLUSTERS = "clusters.npz"
"""The file of labels."""


@dataclasses.dataclass(kw_only=True)
class ClusterOptions(PictureSettings, ProbeOptions):
    """Cluster the features of training images, and write labels for --pseudo_labels.

    fastimae-eval cluster --checkpoint mae.pth --ffcv train.beton --k 1000
    """

    tests = False

    k: Annotated[int, Range(lambda value: value > 1, "must be 2 or more, not {}")] = 1000
    """Number of clusters."""
    tries: PositiveInt = 3
    """Number of starts of k-means; the clusters with the least inertia count."""
    iterations: Expert[PositiveInt] = 100
    """Most iterations from a start."""
    output: Free[Path | None] = None
    """File of labels to write. None: clusters.npz in the folder of the results."""

    def check(self) -> None:
        """Raise ConfigError for values out of range, and for --val."""
        super().check()
        self.require(
            self.val is None,
            "--val: give the images to cluster, which are those of training, as --ffcv or "
            "--data_path",
        )
