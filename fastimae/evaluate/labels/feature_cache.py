"""Features in files, so that the tasks that use those of a checkpoint compute them once.

N = images, D = encoder width.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastimae.best_effort import best_effort
from fastimae.engine.distributed import World
from fastimae.engine.precision import resolve_precision
from fastimae.engine.settings import Precision
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.features import extract, resolve_layer
from fastimae.evaluate.images import Images
from fastimae.evaluate.options.base import Kept
from fastimae.evaluate.origin import weights_digest
from fastimae.folders import FolderError, replacing
from fastimae.loaders.errors import DataError
from fastimae.locks import InUse, file_to_write
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """The features of a data set, on the CPU."""

    rows: Tensor
    """float32 [N, D]"""
    labels: Tensor
    """int64 [N]"""
    skipped: tuple[int, ...] = ()
    """Positions of the images that could not be read, which have no row."""

    @property
    def bad(self) -> int:
        """Number of images that could not be read."""
        return len(self.skipped)

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Computes features with one model, and keeps them in files."""

    model: MaskedAutoencoder
    folder: Path
    """May be shared by probes that run at the same time."""
    scratch: Path
    """A folder of this probe alone, in which its processes exchange their shares."""
    world: World
    """Each process computes its share."""
    pool: Kept
    precision: Precision
    batch_size: int
    workers: int
    layer: int = -1
    """The block whose latents are pooled: see `resolve_layer`."""

    def features(self, images: Images) -> Features:
        """Read or compute the features of all images that can be read, in order.

        The file's name is a function of the encoder's weights, the images, their size and crop, the
        layer, the pool and the precision. Raises DataError if no image can be read.
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
        block = resolve_layer(self.model, self.layer)
        layer = f"-layer{block}" * (block < len(self.model.blocks) - 1)
        return f"{self._encoder}-{images.fingerprint}-{view}{layer}-{self.pool}-{precision}"

    @functools.cached_property
    def _encoder(self) -> str:
        """Hashed only once: a large encoder takes a second."""
        return encoder_digest(self.model)

    def _compute(self, images: Images, name: str) -> Features:
        """Compute this process's share, and exchange shares through files in `scratch`."""
        world = self.world
        shares = np.array_split(np.arange(len(images)), world.size)
        mine = self._share(images, shares[world.rank])
        if world.size == 1:
            return mine
        parts = [self.scratch / f"{name}.part{rank}" for rank in range(world.size)]
        write_features(parts[world.rank], mine)
        world.any(False)  # all parts are there
        features = [part for part in map(read_features, parts) if part]
        world.any(False)  # all have read them
        parts[world.rank].unlink()
        return Features(
            rows=torch.cat([part.rows for part in features]),
            labels=torch.cat([part.labels for part in features]),
            skipped=tuple(index for part in features for index in part.skipped),
        )

    def _share(self, images: Images, indices: NDArray[np.int64]) -> Features:
        batches = CenterBatches(
            images, self.model.img_size, batch_size=self.batch_size, workers=self.workers,
            channels=self.model.in_chans, indices=indices,
        )  # fmt: skip
        rows, labels = extract(
            self.model, batches, self.world.device, self.pool,
            precision=self.precision, layer=self.layer, quiet=not self.world.is_main,
        )  # fmt: skip
        return Features(rows=rows, labels=labels, skipped=tuple(sorted(batches.bad)))


def encoder_digest(model: MaskedAutoencoder) -> str:
    """Hash all of a model that features depend on: the encoder's weights, heads, mean and std."""
    heads = [block.attn.num_heads for block in model.blocks]
    known = model.grid, model.mean, model.std, heads, weights_digest(model.state_dict())
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def keep_features(path: Path, features: Features) -> bool:
    """Write features for other probes, if the disk has room and none of them writes the file now.

    Returns whether the file was written.
    """
    with (
        contextlib.suppress(InUse),
        best_effort(path, SafetensorError, FolderError),
        file_to_write(path, "--feature_dir"),
    ):
        write_features(path, features)
        return True
    return False


def write_features(path: Path, features: Features) -> None:
    """Write features to a file, atomically."""
    tensors = {"rows": features.rows.contiguous(), "labels": features.labels.contiguous()}
    with replacing(path) as partial:
        save_file(tensors, partial, {"skipped": json.dumps(features.skipped)})


def read_features(path: Path) -> Features | None:
    """Read what `write_features` wrote; None if the file is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            return Features(
                rows=file.get_tensor("rows"),
                labels=file.get_tensor("labels"),
                skipped=_skipped(file.metadata()),
            )
    except FileNotFoundError:
        return None
    except (SafetensorError, KeyError, TypeError) as error:
        log.warning("%s is damaged, and computed again (%s)", path, error)
        return None


def _skipped(about: dict[str, str]) -> tuple[int, ...]:
    """Return `Features.skipped`. Raises KeyError for a file of a version that only counted some."""
    if about.get("bad") == "0":
        return ()
    return tuple(json.loads(about["skipped"]))
