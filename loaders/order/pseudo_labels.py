"""A file of labels for the images of a data set that has none: clusters of their features.

`fastimae-eval cluster` writes it, and `--pseudo_labels` reads it. It is an .npz file without
pickled objects:

    labels      int32 [N], 0 to clusters - 1; -1: an image that could not be read
    clusters    their number
    data        the identity of the images, in their order: see identity.py
    images      the path of the images
    checkpoint  the path of the model whose features were clustered
    weights     the digest of its encoder
    format      1

The zip checksums of the format tell damage. N = images.
"""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastimae.folders import replacing
from fastimae.loaders.errors import DataError

FORMAT = 1
_TEXTS = ("data", "images", "checkpoint", "weights")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """The content of a file: see above."""

    labels: NDArray[np.int64]
    """[N]"""
    clusters: int
    data: str
    images: str
    checkpoint: str
    weights: str

    def write(self, path: Path) -> None:
        """Write the file, atomically. An OSError names it."""
        texts = {name: np.array(getattr(self, name)) for name in _TEXTS}
        numbers = {"clusters": np.array(self.clusters), "format": np.array(FORMAT)}
        try:
            with replacing(path) as partial, partial.open("wb") as file:
                np.savez_compressed(file, labels=self.labels.astype(np.int32), **texts, **numbers)
        except OSError as error:
            error.filename = str(path)
            raise

    @classmethod
    def read(cls, path: Path) -> PseudoLabels:
        """Read a file. Raises DataError, naming it, if it is missing, damaged or something else."""
        if not path.is_file():
            raise DataError(f"--pseudo_labels {path}: there is no such file")
        if not zipfile.is_zipfile(path):
            raise _foreign(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except Exception as error:  # zipfile and NumPy raise many kinds for damaged files
            raise DataError(f"--pseudo_labels {path} is damaged: make it again") from error
        if found.get("format", np.array(0)).tolist() != FORMAT or not _complete(found):
            raise _foreign(path)
        texts = {name: str(found[name]) for name in _TEXTS}
        labels = found["labels"].astype(np.int64)
        return cls(labels=labels, clusters=int(found["clusters"]), **texts)

    def of(self, data: str, count: int, source: str, path: Path) -> NDArray[np.int64]:
        """Return the labels for `count` images with the identity `data`, int64 [N].

        Images that could not be read share a label of their own: a loader replaces them, too.
        source, path: of the images and of this file, for messages. Raises DataError if they are
        other images.
        """
        if len(self.labels) != count:
            why = f"is of {len(self.labels)} images ({self.images}), and {source} has {count}"
        elif self.data != data:
            why = f"is of other images than {source}, or of another order ({self.images})"
        else:
            return np.where(self.labels < 0, self.clusters, self.labels)
        raise DataError(f"--pseudo_labels {path} {why}: run fastimae-eval cluster on {source}")


def _complete(found: dict[str, NDArray]) -> bool:
    """Return whether arrays are those of a file, with labels in their range."""
    names = {"labels", "clusters", "format", *_TEXTS}
    if names - found.keys() or found["labels"].ndim != 1 or found["labels"].dtype != np.int32:
        return False
    if any(found[name].shape for name in names - {"labels"}):
        return False
    labels, clusters = found["labels"], found["clusters"].tolist()
    if not isinstance(clusters, int) or clusters < 1:
        return False
    return bool(((labels >= -1) & (labels < clusters)).all())


def _foreign(path: Path) -> DataError:
    return DataError(f"--pseudo_labels {path} is not a whole file of fastimae-eval cluster")
