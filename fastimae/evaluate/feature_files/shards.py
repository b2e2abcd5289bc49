"""The file or files of a set of features: which images each holds, and how large they are.

N = images.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fastimae.evaluate.feature_files.row_file import Column, RowFile
from fastimae.evaluate.images import Images
from fastimae.folders import FolderError, replacing
from fastimae.loaders.convert.report import format_bytes
from fastimae.log import log
from fastimae.settings import ConfigError

GB = 10**9
MADE_BY = "fastimae-eval features"
"""Metadata "made_by" of our files, which alone are replaced."""
OF_IMAGES = {"labels": Column("int64"), "index": Column("int64")}
"""What each row has besides features: the label, and the position in the data."""


class Shards:
    """Files of features, in the order of the images, that appear together when all are complete."""

    def __init__(
        self,
        out: Path,
        images: Images,
        features: Mapping[str, Column],
        about: Mapping[str, str],
        most_bytes: float,
    ) -> None:
        """Divide the images over as many files as needed, each of at most `most_bytes`.

        features: by name. about: metadata of all files. Raises ConfigError if a file cannot hold
        even one image.
        """
        self.out, self.images, self.about = out, images, {**about, "made_by": MADE_BY}
        self.columns = {**OF_IMAGES, **features}
        self.row_bytes = sum(column.row_bytes for column in self.columns.values())
        per_file = int(most_bytes // self.row_bytes)
        if not per_file:
            raise ConfigError(
                f"--max_shard_size {most_bytes / GB:g} (GB): an image alone has "
                f"{format_bytes(self.row_bytes)}"
            )
        count = math.ceil(len(images) / per_file)
        self.bounds = np.linspace(0, len(images), count + 1).round().astype(np.int64)
        self.paths = [self._path(number, count) for number in range(count)]
        self.skipped = 0
        self._open: RowFile | None = None
        self._opened = 0
        self._written: list[NDArray[np.int64]] = []

    def _path(self, number: int, count: int) -> Path:
        if count == 1:
            return self.out
        return self.out.with_stem(f"{self.out.stem}-{number + 1:05d}-of-{count:05d}")

    @property
    def bytes(self) -> int:
        """Bytes of all files, without headers and names."""
        return len(self.images) * self.row_bytes

    def check_room(self) -> None:
        """Log the size. Raises FolderError if the disk has less room, or has other files there."""
        for path in self.paths:
            _check_ours(path)
        free = shutil.disk_usage(self.out.parent).free
        size = f"{format_bytes(self.bytes)} of features for {len(self.images)} images"
        room = f"{format_bytes(free)} free at {self.out.parent}"
        if self.bytes > free:
            raise FolderError(
                f"OUT: {self.out} does not fit: {size}, {room}; choose another disk, or make it "
                "smaller with --dtype float16, fewer --layers, or --pool cls or avg"
            )
        files = f"{len(self.paths)} files" if len(self.paths) > 1 else "one file"
        log.info("%s in %s; %s", size, files, room)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Shards]:
        """Keep what `write` gets if the block succeeds, in place of files of an earlier call.

        Nothing is kept, and nothing replaced, if it fails.
        """
        earlier = set(features_at(self.out))
        with contextlib.ExitStack() as self._files:
            try:
                yield self
                while self._opened < len(self.paths):
                    self._next_file()
                self._finish()
            finally:
                if self._open:
                    self._open.close()
        for path in earlier - set(self.paths):
            path.unlink(missing_ok=True)

    def write(self, index: NDArray[np.int64], features: Mapping[str, NDArray]) -> None:
        """Write rows. index: int64 [B], positions of the images, larger than any before.

        features: [B, ...] by name.
        """
        rows = {"labels": self.images.labels[index], "index": index, **features}
        while len(index):
            if self._open is None or index[0] >= self.bounds[self._opened]:
                self._next_file()
                continue
            here = int(np.searchsorted(index, self.bounds[self._opened]))
            self._open.write({name: values[:here] for name, values in rows.items()})
            self._written.append(index[:here])
            rows = {name: values[here:] for name, values in rows.items()}
            index = rows["index"]

    def _next_file(self) -> None:
        """Finish the open file, and open the next one."""
        self._finish()
        first, last = self.bounds[self._opened : self._opened + 2]
        partial = self._files.enter_context(replacing(self.paths[self._opened]))
        about = {"file": f"{self._opened + 1} of {len(self.paths)}", **self.about}
        self._open = RowFile(partial, self.columns, int(last - first), about)
        self._opened += 1

    def _finish(self) -> None:
        if self._open is None:
            return
        index = np.concatenate([np.empty(0, np.int64), *self._written])
        first, last = self.bounds[self._opened - 1 : self._opened + 1]
        skipped = int(last - first) - len(index)
        self._open.finish(_names(self.images, index), {"skipped": str(skipped)})
        self._open, self._written = None, []
        self.skipped += skipped


def _names(images: Images, index: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
    """Return {"names": UTF-8 of a JSON list of file names}; {} if the data have none.

    They are relative to the source. Not in the header, which programs read as a whole.
    """
    if images.path is None:
        return {}
    names = [os.path.relpath(images.path(int(at)), images.source) for at in index]
    return {"names": np.frombuffer(json.dumps(names).encode(), np.uint8)}


def features_at(out: Path) -> list[Path]:
    """Return the files that an earlier call with this OUT has written.

    Raises FolderError if there is another file in its place.
    """
    pattern = f"{'[0-9]' * 5}-of-{'[0-9]' * 5}"
    shards = out.parent.glob(f"{_literal(out.stem)}-{pattern}{out.suffix}")
    found = [path for path in shards if _is_ours(path)]
    _check_ours(out)
    return [*found, out] if out.exists() else found


def _check_ours(path: Path) -> None:
    if path.exists() and not _is_ours(path):
        raise FolderError(f"{path} exists and holds no features: choose another OUT")


def _literal(name: str) -> str:
    """Escape what is special in a pattern."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("made_by") == MADE_BY
    except (SafetensorError, OSError):
        return False
