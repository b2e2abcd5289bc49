"""Tokens of images to test on, computed in each pass anew: those of a data set fill no memory.

B = batch, T = tokens, D = encoder width.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.features import features
from fastimae.evaluate.images import Images
from fastimae.evaluate.labels.feature_cache import FeatureStore


class TokenBatches:
    """Iterable of this process's share, (float32 [B, T, D], int64 [B]), on its device.

    `bad` is the number of images, of all processes, that could not be read; None before a pass.
    """

    def __init__(self, store: FeatureStore, images: Images) -> None:
        """store: has the encoder, and says how it computes features; its pool is "tokens"."""
        world = store.world
        self.store, self.images = store, images
        self.bad: int | None = None
        self.batches = CenterBatches(
            images, store.model.img_size, batch_size=store.batch_size, workers=store.workers,
            channels=store.model.in_chans,
            indices=np.arange(len(images))[world.rank :: world.size],
        )  # fmt: skip

    def __len__(self) -> int:
        """Return the number of images that can be read, as far as that is known."""
        return len(self.images) - (self.bad or 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        store, device = self.store, self.store.world.device
        for pixels, labels in self.batches:
            how = store.pool, store.precision, store.layer
            yield features(store.model, pixels.to(device), *how), labels.to(device)
        self._count()

    def count(self) -> None:
        """Find `bad` out, on all processes, if there was no pass: a finished run makes none."""
        if self.bad is None:
            for _ in self.batches:
                pass
            self._count()

    def _count(self) -> None:
        store, device = self.store, self.store.world.device
        bad = torch.tensor(float(len(self.batches.bad)), device=device)
        self.bad = round(float(store.world.mean(bad) * store.world.size))
