"""Epochs whose batches a device makes by itself: the plan is there, and a counter says which step.

Dimensions: S micro steps of an epoch, B images in a batch, N samples of the data set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastimae.loaders.batch import Batch
from fastimae.loaders.device_plan import draw_steps
from fastimae.loaders.order.sampler import BatchPlan, Sampler

if TYPE_CHECKING:
    from fastimae.loaders.device_images import DeviceImages

Replace = Callable[[BatchPlan], BatchPlan]
_COLUMNS = 6
"""Of B words each: sample, its row in the store, label, key, partner; height and width, 32 bits."""


class ResidentEpoch:
    """What a loader offers whose samples are on the device: batches that need no host.

    `begin` puts an epoch's plan on the device. Then each `batch` consists of device operations at
    fixed addresses, so that a CUDA graph can record one, or several in a row, and replay them:
    each replay makes the next batches. The host only counts: `advance`.

    A change of the image size (`Loader.set_image_size`) makes batches of another shape: record
    anew. There are `len(loader)` batches in an epoch; asking for more is an error of the device.
    """

    def __init__(self, sampler: Sampler, images: Callable[[], DeviceImages]) -> None: ...

    def begin(self, epoch: int, step: int) -> None:
        """Go to micro step `step` of `epoch`; nothing waits for the device."""

    def batch(self) -> Batch:
        """Return the next batch, all fields on the device; the counter there moves on by one."""

    def advance(self, count: int) -> None:
        """Tell the loader that `count` more batches were handed out: for `state_dict`, and to count
        bad samples. Raises `DataError` as iterating does."""
