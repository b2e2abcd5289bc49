"""Checks of a sampler: settings that do not fit the data, or each other, are a DataError."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastimae.loaders.errors import DataError
from fastimae.loaders.order.philox import COPIES

if TYPE_CHECKING:
    from fastimae.loaders.order.sampler import Sampler


def check_sizes(sampler: Sampler) -> None:
    """Raise DataError unless groups and copies fit a batch, and a step fits an epoch."""
    batch_size, repeated_aug = sampler.batch_size, sampler.repeated_aug
    copies = f"--repeated_aug {repeated_aug}"
    if batch_size % repeated_aug:
        raise DataError(f"--batch_size {batch_size} is not a multiple of {copies}")
    if batch_size % (sampler.group * repeated_aug):
        raise DataError(
            f"--batch_size {batch_size} is not a multiple of --mix_group {sampler.group}"
            + (f" x {copies}" if repeated_aug > 1 else "")
            + " (--mix_group 0 mixes across the full batch)"
        )
    if sampler.drawn * repeated_aug > COPIES * len(sampler.chosen):
        raise DataError(
            f"--epoch_samples {sampler.drawn}: no image can come more than {COPIES} times in an "
            "epoch: make it smaller"
        )
    if not len(sampler):
        raise DataError(_too_few(sampler, copies))


def check_pairs(sampler: Sampler) -> None:
    """Raise DataError if pairs do not fit groups, or classes are asked for that are not known."""
    ratio = sampler.same_class_ratio
    if sampler.in_pairs and sampler.group % 2:
        flag = "--reciprocal_pairs" if ratio is None else "--same_class_ratio"
        raise DataError(
            f"{flag} needs an even --mix_group (or an even --batch_size / --repeated_aug "
            f"with --mix_group 0), not {sampler.group}"
        )
    if ratio is None:
        return
    if len(sampler.chosen) < 2:
        raise DataError("--same_class_ratio needs two images or more, and there is one")
    if (sampler.labels[sampler.chosen] < 0).any():
        raise DataError(
            "--same_class_ratio needs a label for every sample, and some have none: "
            "fastimae-eval cluster makes some, for --pseudo_labels"
        )


def check_partners(sampler: Sampler) -> None:
    """Raise DataError where an image would be its own partner for want of others.

    For objectives that mix images: without mixtures, one image is enough.
    """
    few = len(sampler.chosen)
    if few == 1:
        raise DataError("a mixture is of two images, and there is one: give --images 2 or more")
    if few == 2 and sampler.group % 2:
        raise DataError(
            f"two images in groups of {sampler.group}: one would be mixed with itself: make "
            "--mix_group even"
        )


def _too_few(sampler: Sampler, copies: str) -> str:
    accum_iter = sampler.accum_iter
    return (
        f"{sampler.drawn} samples are fewer than one optimizer step of "
        f"{sampler.stride * accum_iter} (--batch_size {sampler.batch_size} x {sampler.world_size} "
        + ("rank" if sampler.world_size == 1 else "ranks")
        + (f" x --accum_iter {accum_iter}" if accum_iter > 1 else "")
        + (f" / {copies}" if sampler.repeated_aug > 1 else "")
        + "): make --batch_size "
        + ("or --accum_iter " if accum_iter > 1 else "")
        + "smaller, or the epoch longer with --epoch_samples"
    )
