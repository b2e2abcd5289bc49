"""Features on disk: linear, knn and fewshot of one checkpoint compute them once.

N = images, D = encoder width.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastimae.engine.distributed import World
from fastimae.engine.precision import Precision, resolve_precision
from fastimae.evaluate.encoder import Pool, extract
from fastimae.evaluate.images import Images, center_batches
from fastimae.evaluate.origin import weights_digest
from fastimae.folders import replacing
from fastimae.loaders.errors import DataError
from fastimae.locks import InUse, file_to_write
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What an encoder makes of a data set, on the CPU."""

    rows: Tensor
    """float32 [N, D]"""
    labels: Tensor
    """int64 [N]"""
    bad: int = 0
    """Images left out because they could not be read."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Makes the features of one model, and keeps them in files."""

    model: MaskedAutoencoder
    folder: Path
    """Probes that run at the same time may share it."""
    scratch: Path
    """Of this probe alone: for shares on their way to other processes."""
    world: World
    """Each process computes its share."""
    pool: Pool
    precision: Precision
    batch_size: int
    workers: int

    def features(self, images: Images) -> Features:
        """The features of all images that can be read, in order.

        The file's name follows from the encoder's weights, the images, their view, the pool and
        the precision. Raises DataError where no image can be read.
        """
        path = self.folder / f"{self._key(images)}.safetensors"
        kept = read_features(path)
        if self.world.any(kept is None):
            kept = self._compute(images, path.name)
            if self.world.is_main and keep_features(path, kept):
                log.info("the features of %s are kept in %s", images.source, path)
        if not len(kept):
            raise DataError(f"{images.source}: none of its {kept.bad} images can be read")
        return kept

    def _key(self, images: Images) -> str:
        height, width = self.model.img_size
        precision = resolve_precision(self.precision, self.world.device)
        view = f"{height}x{width}{'-whole' * images.whole}"
        return f"{self._encoder}-{images.fingerprint}-{view}-{self.pool}-{precision}"

    @functools.cached_property
    def _encoder(self) -> str:
        """Hashed once for all data sets: a large one takes a second."""
        return encoder_digest(self.model)

    def _compute(self, images: Images, name: str) -> Features:
        """All features; other processes' shares come through files in `scratch`."""
        world = self.world
        shares = np.array_split(np.arange(len(images)), world.size)
        mine = self._share(images, shares[world.rank])
        if world.size == 1:
            return mine
        parts = [self.scratch / f"{name}.part{rank}" for rank in range(world.size)]
        write_features(parts[world.rank], mine)
        world.any(False)  # all parts are there
        every = [part for part in map(read_features, parts) if part]
        world.any(False)  # all have read them
        parts[world.rank].unlink()
        return Features(
            rows=torch.cat([part.rows for part in every]),
            labels=torch.cat([part.labels for part in every]),
            bad=sum(part.bad for part in every),
        )

    def _share(self, images: Images, indices: NDArray[np.int64]) -> Features:
        batches = center_batches(
            images, self.model.img_size, batch_size=self.batch_size, workers=self.workers,
            channels=self.model.in_chans, indices=indices,
        )  # fmt: skip
        rows, labels = extract(
            self.model, batches, self.world.device, self.pool,
            precision=self.precision, quiet=not self.world.is_main,
        )  # fmt: skip
        return Features(rows=rows, labels=labels, bad=len(batches.bad))


def encoder_digest(model: MaskedAutoencoder) -> str:
    """A hash of all that features depend on in a model: the encoder's weights, mean and std."""
    heads = [block.attn.num_heads for block in model.blocks]
    known = model.grid, model.mean, model.std, heads, weights_digest(model.state_dict())
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def keep_features(path: Path, features: Features) -> bool:
    """Write them for other probes, unless one of those is just doing that: its are the same."""
    try:
        with file_to_write(path, "--feature_dir"):
            write_features(path, features)
    except InUse:
        return False
    return True


def write_features(path: Path, features: Features) -> None:
    """Write a file whole or not at all."""
    tensors = {"rows": features.rows.contiguous(), "labels": features.labels.contiguous()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"bad": str(features.bad)})


def read_features(path: Path) -> Features | None:
    """What `write_features` wrote; None where there is no such file, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return Features(
                rows=file.get_tensor("rows"),
                labels=file.get_tensor("labels"),
                bad=int(file.metadata()["bad"]),
            )
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, TypeError) as error:
        log.warning("%s is damaged and made anew (%s)", path, error)
        return None
