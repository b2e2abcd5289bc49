"""A folder of images through Pillow and torch's DataLoader.

The reference pipeline: it reads every format that Pillow does. Order, crops and flips are those
of the other back ends, so the batches are the same.

Worker processes are forked on Linux (where Python would choose another way from 3.14 on). Forking
is safe here, since workers touch Pillow and NumPy only, no CUDA and no OpenMP; it starts in
milliseconds where a fresh process imports torch for seconds, it does not copy a million file names
to each worker, and it does not ask the user's script for a `__main__` guard.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastimae.loaders.base import Loader, Shown
from fastimae.loaders.crops import Crops
from fastimae.loaders.decode import Failures, decode_rows, replace_failures
from fastimae.loaders.errors import DataError
from fastimae.loaders.items import Item, Source
from fastimae.loaders.limits import for_data_loader, open_image
from fastimae.loaders.sampler import Sampler, Step
from fastimae.loaders.sources import find_for_loader

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

    classes: list[str]
    """The name of each label."""

    @classmethod
    def of(cls, source: Source) -> Folder:
        """Of a source of whole files, not with a second list of all names."""
        longest = max(len(os.fsencode(item.path)) for item in source.items)
        names = (os.fsencode(item.path) for item in source.items)
        labels = source.labels or np.full(len(source.items), -1)
        return cls(
            files=np.fromiter(names, f"S{longest}", len(source.items)),
            labels=np.asarray(labels, np.int64),
            classes=source.class_names,
        )

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
        self.num_workers = num_workers
        self._dataset = _Steps(folder, crops)

    def sample_name(self, index: int) -> str:
        return self._dataset.folder.path(index)

    def _show(self, steps: Iterable[Step]) -> Iterator[Shown]:
        results = iter(
            DataLoader(
                self._dataset,
                batch_sampler=steps,
                collate_fn=_unchanged,
                num_workers=self.num_workers,
                multiprocessing_context=start_method() if self.num_workers else None,
                worker_init_fn=for_data_loader(),
                # One of our own: drawing from the default one would disturb the training run.
                generator=torch.Generator(),
            )
        )
        try:
            while (result := self._next(results)) is not None:
                images, index, bad = result
                # A copy, as each shared batch that the caller keeps would hold a file open.
                yield Shown(images=images if self.pin else images.clone(), index=index, bad=bad)
        finally:
            # By name, not by dropping it: the traceback of an error would keep it alive.
            if self.num_workers:
                results._shutdown_workers()

    def _next(self, results: Iterator[_Result]) -> _Result | None:
        """The next result, None at the end; `DataError` if a worker process has died."""
        try:
            return next(results, None)
        except (RuntimeError, OSError, EOFError) as error:
            # "Caught": torch passes on an error that a worker raised. A dead one shows as others,
            # depending on what it was doing.
            if self.num_workers == 0 or str(error).startswith("Caught"):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(
                f"a loading process died, try fewer --num_workers ({reason})"
            ) from error


_Result = tuple[Tensor, NDArray[np.int64], dict[int, str]]
"""The fields of `Shown`."""


class _Steps(Dataset[_Result]):
    """What runs in a worker: one item is one step."""

    def __init__(self, folder: Folder, crops: Crops) -> None:
        self.folder, self.crops = folder, crops

    def __getitems__(self, step: Step) -> _Result:
        """Decode a step, which torch takes for a list of indices."""
        index, key, count = step.index, step.key, len(step.index)
        pixels = np.empty((count, *self.crops.shape), dtype=np.uint8)
        failures: Failures = {}
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, first + ROWS_AT_ONCE)
            failed = decode_rows(self.folder.open, self.crops, index[rows], key[rows], pixels[rows])
            failures.update({first + row: reason for row, reason in failed.items()})
        shown = replace_failures(self.folder.open, self.crops, index, key, pixels, failures)
        bad = {int(index[row]): reason for row, reason in failures.items()}
        return torch.from_numpy(pixels), shown, bad


def _unchanged(result: _Result) -> _Result:
    return result


def start_method() -> str | None:
    """How DataLoader starts its workers: see the top of this file. None: as Python likes."""
    return "fork" if sys.platform == "linux" else None
