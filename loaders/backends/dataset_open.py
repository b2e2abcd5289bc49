"""Opens a user's dataset, or images of ours for a user's transform, and looks at some samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastimae.loaders.backends.dataset import DatasetDecoder, DatasetLoader, Transform
from fastimae.loaders.backends.dataset_probe import Probe, probe
from fastimae.loaders.beton.reader import BetonReader
from fastimae.loaders.errors import DataError
from fastimae.loaders.images.bands import AnyImage
from fastimae.loaders.images.crops import Crops
from fastimae.loaders.order.sampler import Sampler
from fastimae.loaders.settings import LoaderSettings
from fastimae.loaders.sources.image_files import ImageFiles
from fastimae.loaders.sources.survey import Survey
from fastimae.loaders.sources.user_dataset import UserDataset, load_dataset
from fastimae.log import log


def open_dataset(
    settings: LoaderSettings,
    crops: Crops,
    *,
    dataset: Any,
    labels: Any,
    transform: Transform | None,
    quiet: bool,
) -> tuple[UserDataset, Callable[[], Survey]]:
    """Open a dataset, which --dataset names if it is None.

    labels: see `UserDataset.of`. Returns it, and a function that describes the sizes of its images.
    Raises DataError if the run should not start.
    """
    dataset = load_dataset(settings.dataset) if dataset is None else dataset
    samples = UserDataset.of(dataset, settings.dataset, labels, settings.in_chans)
    decoder = DatasetDecoder(samples, crops, transform)
    found = probe(decoder, f"--dataset {samples.name}", num_workers=settings.worker_count())
    samples = _with_checked_labels(samples, found, quiet)
    if settings.same_class_ratio is not None and not samples.labels_known:
        raise DataError(
            f"--same_class_ratio needs the labels before images are read, and {samples.name} has "
            "neither .targets nor .labels with a whole number for each sample: add one"
        )
    if not quiet:
        _log_randomness(samples.name, found, crops)
    read = found.read if found.repeats else None
    return dataclasses.replace(samples, read=read, form=found.form), found.survey


def _with_checked_labels(samples: UserDataset, found: Probe, quiet: bool) -> UserDataset:
    """Forget labels of the dataset that its items contradict, as with a target_transform."""
    items = found.labels.items()
    clash = [i for i, label in items if label >= 0 and label != samples.labels[i]]
    if not clash or samples.labels_origin != UserDataset.OWN:
        return samples
    if not quiet:
        log.warning(
            "%s: sample %d has the label %d, but its .targets or .labels say %d: labels are taken "
            "from the samples", samples.name, clash[0], found.labels[clash[0]],
            samples.labels[clash[0]],
        )  # fmt: skip
    return samples.without_labels()


def _log_randomness(name: str, found: Probe, crops: Crops) -> None:
    if not found.repeats:
        log.warning(
            "%s: a sample that is read twice with the same seed differs. Its code draws random "
            "numbers other than the global ones of Python, NumPy and torch, so runs cannot be "
            "repeated exactly", name,
        )  # fmt: skip
    elif found.is_random and crops.random:
        log.info(
            "%s: its own random transform is applied first, then our crop and flip; --crop none "
            "--no_hflip leaves them out", name,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredSamples:
    """Images of a file or folder as `Samples`."""

    data: BetonReader | ImageFiles
    open_image: Callable[[int], AnyImage]
    sample_name: Callable[[int], str]
    labels_known = True

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [N]"""
        return self.data.labels

    def item(self, index: int, _key: int) -> tuple[AnyImage, int]:
        """Open an image; see `Samples`."""
        return self.open_image(index), int(self.labels[index])

    def close(self) -> None:
        """Close the file."""
        self.data.close()


def transform_loader(
    data: BetonReader | ImageFiles,
    sampler: Sampler,
    crops: Crops,
    *,
    open_image: Callable[[int], AnyImage],
    sample_name: Callable[[int], str],
    transform: Transform,
    **settings: int,
) -> DatasetLoader:
    """Make a loader of stored images whose crops are transformed. Raises DataError."""
    samples = StoredSamples(data=data, open_image=open_image, sample_name=sample_name)
    decoder = DatasetDecoder(samples, crops, transform)
    found = probe(decoder, "transform", num_workers=settings["num_workers"])
    if sampler.rank == 0:
        _log_randomness("transform", found, dataclasses.replace(crops, random=False))
    return DatasetLoader(samples, sampler, crops, transform=transform, **settings)
