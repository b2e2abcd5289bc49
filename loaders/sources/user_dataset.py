"""A user's own dataset (`--dataset`, `create_loader(dataset=...)`): any object with len and [i].

An item is an image, a tuple (image, label, ...), or a dict with "image" (or "img") and "label", as
Hugging Face's are; images as in images/given_images.py.

N = samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset

from fastimae.loaders.errors import DataError
from fastimae.loaders.images.bands import AnyImage
from fastimae.loaders.images.given_images import (
    NotAnImage,
    as_image,
    label_of,
    labels_in,
)
from fastimae.loaders.images.limits import check_pixels
from fastimae.loaders.images.pixel_form import RGB8, PixelForm
from fastimae.loaders.order.epoch_steps import Read
from fastimae.loaders.order.seeded import seeded_by
from fastimae.user_code import call_user_function, import_from_spec

IMAGE_KEYS, LABEL_KEY = ("image", "img"), "label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserDataset:
    """A checked dataset; its items are read with the random generators seeded."""

    dataset: Any
    name: str
    """Its name in messages: the spec, or its type."""
    labels: NDArray[np.int64]
    """[N]; -1 everywhere if labels are not known before samples are read."""
    labels_origin: str
    """GIVEN by the caller, the dataset's OWN, or unknown: ""."""
    class_names: list[str]
    """The name of each label; empty where names are not known."""
    read: Read | None = None
    """Returns what identifies a sample, for `digest_of`."""
    channels: int = RGB8.channels
    """--in_chans."""
    form: PixelForm = RGB8
    """That of its images, as the first one shows it."""
    GIVEN: ClassVar[str] = "given"
    OWN: ClassVar[str] = "own"

    @classmethod
    def of(
        cls, dataset: Any, name: str, labels: Any = None, channels: int = RGB8.channels
    ) -> UserDataset:
        """Check a dataset. labels: of its samples, if the caller has them. Raises DataError."""
        check_dataset(dataset, name)
        samples = cls(
            dataset=dataset,
            name=name,
            labels=np.full(len(dataset), -1),
            labels_origin="",
            class_names=[],
            channels=channels,
        )
        if labels is not None:
            return samples._with_labels(_given(labels, len(dataset)), cls.GIVEN)
        known = known_labels(dataset)
        return samples if known is None else samples._with_labels(known, cls.OWN)

    def _with_labels(self, labels: NDArray[np.int64], origin: str) -> UserDataset:
        names = _names(self.dataset, labels)
        return dataclasses.replace(self, labels=labels, labels_origin=origin, class_names=names)

    def without_labels(self) -> UserDataset:
        """Return the dataset with labels that are known only once samples are read."""
        unknown = np.full_like(self.labels, -1)
        return dataclasses.replace(self, labels=unknown, labels_origin="", class_names=[])

    @property
    def labels_known(self) -> bool:
        """Whether labels are known before samples are read."""
        return self.labels_origin != ""

    @property
    def kind(self) -> str:
        """What it is, in words."""
        kind = type(self.dataset).__name__
        kind = "own dataset" if kind == self.name else kind
        return kind if self.labels_known else f"{kind}, labels as its samples have them"

    def item(self, index: int, key: int) -> tuple[AnyImage, int]:
        """Read a sample: its image, of any size, and the label that came with it (-1: none).

        key: the seed of Python's, NumPy's and torch's random generators meanwhile. Raises what the
        dataset raises, and NotAnImage.
        """
        with seeded_by(key):
            value, label = split(self.dataset[index])
        image = as_image(value, self.channels)
        check_pixels(*image.size)
        return image, label_of(label)

    def sample_name(self, index: int) -> str:
        """Return the name of a sample in messages."""
        return f"sample {index} of {self.name}"

    def close(self) -> None:
        """Do nothing: the dataset is the caller's."""


def load_dataset(spec: str) -> Any:
    """Return what `spec`, module:function or file.py:function, makes: a dataset.

    It may also name a class without arguments, or a dataset itself. Raises DataError.
    """
    found = import_from_spec(
        "--dataset", spec, "function", lambda found: found is not None, DataError
    )
    if isinstance(found, type) or not hasattr(found, "__getitem__"):
        found = call_user_function("--dataset", spec, found, DataError)
    return found


def check_dataset(dataset: Any, name: str) -> None:
    """Raise DataError unless this is a map-style dataset with samples."""
    kind, problem = type(dataset).__name__, ""
    if isinstance(dataset, DataLoader):
        problem = "a DataLoader has no samples by index: give the dataset inside it"
    elif isinstance(dataset, Mapping):
        problem = f"a {kind} of {', '.join(map(str, dataset))}: give one of them"
    elif isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        problem = (
            f"the type {kind} cannot be read by index, so it has no order to shuffle and resume: "
            "give a dataset with __len__ and __getitem__, or pack the images with fastimae-convert"
        )
    elif not hasattr(dataset, "__len__"):
        problem = f"the type {kind} has no __len__"
    elif not len(dataset):
        problem = f"the {kind} has no samples"
    if problem:
        raise DataError(f"--dataset {name}: {problem}")


def split(item: Any) -> tuple[Any, Any]:
    """Return the image and the label (None: it has none) of an item. Raises NotAnImage."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None:
            keys = ", ".join(map(str, item))
            raise NotAnImage(f"a dict without the key {' or '.join(IMAGE_KEYS)} (it has {keys})")
        return item[key], item.get(LABEL_KEY)
    if isinstance(item, tuple | list) and item:
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def known_labels(dataset: Any) -> NDArray[np.int64] | None:
    """Return the labels that a dataset knows without reading images: those of its .targets or
    .labels, as torchvision's have, or of the column "label", as Hugging Face's have; else None."""
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)
    for name in ("targets", "labels"):
        labels = labels_in(getattr(dataset, name, None), len(dataset))
        if labels is not None:
            return labels
    if LABEL_KEY in (getattr(dataset, "column_names", None) or ()):
        return labels_in(np.asarray(dataset.with_format("numpy")[LABEL_KEY]), len(dataset))
    return None


def _given(labels: Any, count: int) -> NDArray[np.int64]:
    found = labels_in(labels, count)
    if found is None:
        raise DataError(f"--labels must be {count} whole numbers, one for each sample")
    return found


def _names(dataset: Any, labels: NDArray[np.int64]) -> list[str]:
    """Return the names of the classes, if the dataset has as many as there are labels."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    column = features.get(LABEL_KEY) if isinstance(features, Mapping) else None
    names = getattr(column, "names", None) or getattr(dataset, "classes", None)
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if is_list and len(names) > labels.max() else []
