"""A folder of images through Pillow and torch's DataLoader.

The reference pipeline: it reads every format that Pillow does. Order, crops and flips are those
of the other back ends, so the batches are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastimae.loaders.base import Loader, Shown
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, decode_rows, replace_failures
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source
from fastimae.loaders.limits import open_image
from fastimae.loaders.sampler import Sampler, Step
from fastimae.loaders.sources import find_for_loader
from fastimae.loaders.worker_batches import check_workers, made_by_workers

ROWS_AT_ONCE = 16
"""Files a worker holds at once, so that crops are drawn for several images in one call."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """The image files of a data set."""

    files: NDArray[np.bytes_]
    """[N] encoded paths. One array, not N strings: counting references to strings would make each
    forked worker copy the pages they lie in."""
    labels: NDArray[np.int64]
    """[N] number of the class folder; -1 where there are none."""

    class_names: list[str]
    """The name of each label."""
    kind: str
    """What it was taken for, in words."""

    @classmethod
    def of(cls, source: Source) -> Folder:
        """Of a source of whole files, not with a second list of all names."""
        longest = max(len(os.fsencode(item.path)) for item in source.items)
        names = (os.fsencode(item.path) for item in source.items)
        labels = source.labels or np.full(len(source.items), -1)
        return cls(
            files=np.fromiter(names, f"S{longest}", len(source.items)),
            labels=np.asarray(labels, np.int64),
            class_names=source.class_names,
            kind=source.kind,
        )

    def close(self) -> None:
        """Nothing is held open."""

    def path(self, index: int) -> str:
        """The file of sample `index`."""
        return os.fsdecode(self.files[index])

    def read(self, index: int) -> bytes:
        """The bytes of the file. Raises SkipImage."""
        return Item(self.path(index)).read()

    def open(self, index: int) -> Image.Image:
        """The image, undecoded; the file is closed again."""
        return open_image(self.read(index))


def scan_folder(path: str | Path, flag: str = "--data_path") -> Folder:
    """The image files that fastimae-convert would find in a folder, in its order.

    flag: where the path came from, for messages. Raises `DataError` if there are none.
    """
    if not Path(path).is_dir():
        raise DataError(f"{flag} {path}: there is no such folder")
    source = find_for_loader(path, flag)
    if not all(item.is_file for item in source.items):
        raise DataError(f"{flag} {path}: no image files, but {source.kind}: use fastimae-convert")
    return Folder.of(source)


class FolderLoader(Loader):
    """Decodes with `num_workers` processes, each making whole batches (0: in this process)."""

    def __init__(
        self,
        folder: Folder,
        sampler: Sampler,
        crops: Crops,
        *,
        num_workers: int,
        max_bad_samples: int,
        pin_mem: bool,
    ) -> None:
        super().__init__(sampler, crops.shape, max_bad_samples=max_bad_samples, pin_mem=pin_mem)
        check_workers(num_workers)
        self.num_workers = num_workers
        self._dataset = _Steps(folder, crops)

    def sample_name(self, index: int) -> str:
        return self._dataset.folder.path(index)

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        made = made_by_workers(
            self._dataset,
            steps,
            shape=(self.sampler.batch_size, *self.shape),
            dtype=np.uint8,
            num_workers=self.num_workers,
            pin=self.pin,
        )
        with contextlib.closing(made):
            for pixels, (index, bad) in made:
                yield Shown(images=pixels, index=index, bad=bad)


class _Steps:
    """What runs in a worker."""

    def __init__(self, folder: Folder, crops: Crops) -> None:
        self.folder, self.crops = folder, crops

    def __call__(
        self, step: Step, pixels: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Decode a step into `pixels`; the other fields of `Shown`."""
        index, key, count = step.index, step.key, len(step.index)
        failures: Failures = {}
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            failed = decode_rows(self.folder.open, self.crops, index[rows], key[rows], pixels[rows])
            failures.update({first + row: reason for row, reason in failed.items()})
        shown = replace_failures(self.folder.open, self.crops, index, key, pixels, failures)
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return shown, bad
