"""Steps fed by real loaders, and the share of their time spent waiting for data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.reference import plain_loader
from benchmarks.train.cases import TrainCase
from benchmarks.train.measure import UNTIL_RECORDED, Row, checked, row, start_afresh
from benchmarks.train.reference_step import ReferenceStep
from benchmarks.train.variants import Variant, VariantBuilder
from fastimae.engine.throughput import throughput
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.loaders.order.sampler import endless
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

ENDLESS = 10**6
PLAIN_ALPHA = 0.3
"""Weight of the subordinate image in the plain loader's mixtures. Its workers do not know the step,
so they cannot use our draw; any weight takes the same time."""


def measure_fed(
    case: TrainCase,
    variants: dict[str, Variant],
    device: torch.device,
    peak: float,
    *,
    beton: Path,
    folder: Path | None,
    num_workers: int,
    seconds: float,
) -> Iterator[list[Row]]:
    """Yield the rows of variants that train on real images, updated after each variant.

    Ours reads the .beton, the plain pipeline the folder of classes. Raises AssertionError for a
    wrong loss and DataError for unreadable data.
    """
    rows: list[Row] = []
    least = UNTIL_RECORDED if device.type == "cuda" else 1
    for name, variant in variants.items():
        plain = isinstance(variant, ReferenceStep)
        if plain and folder is None:
            continue
        start_afresh(device)
        builder = VariantBuilder(case, device, share=False)
        step, note = checked(case, name, variant, builder)
        source = folder_batches if plain else beton_batches
        path = folder if plain else beton
        with source(case, path, builder, num_workers) as batches:
            skip = max(least, min(2 * num_workers + 2, 40))
            spent, waited, count = throughput(
                step.train, batches, device, seconds, skip=skip, least=least
            )
        data = f"{path.name} (ImageFolder)" if plain else path.name
        more = {"num_workers": num_workers, "data_wait": waited / spent, "note": note}
        found = row(case, name, variant, spent / count, device, peak, data=data, **more)
        reference = rows[0] if rows else found if plain else None
        found["x_reference"] = reference and found["img_per_s"] / reference["img_per_s"]
        rows.append(found)
        del step, builder
        yield rows


@contextlib.contextmanager
def beton_batches(
    case: TrainCase, path: Path, builder: VariantBuilder, num_workers: int
) -> Iterator[Iterator]:
    """Open our loader and return its batches, on the device, as in fastimae-train."""
    loader = create_loader(
        ffcv=path,
        input_size=(case.img_size, case.img_size),
        batch_size=case.batch_size(builder.device),
        num_workers=num_workers,
        mix_group=32 if case.batch_size(builder.device) % 32 == 0 else 0,
    )
    with DevicePrefetch(endless(loader), builder.device) as prefetch:
        yield iter(prefetch)


@contextlib.contextmanager
def folder_batches(
    case: TrainCase, path: Path, builder: VariantBuilder, num_workers: int
) -> Iterator[Iterator]:
    """Open the plain loader and return its batches, in host memory."""
    loader = plain_loader(
        path,
        input_size=case.img_size,
        batch_size=case.batch_size(builder.device),
        num_workers=num_workers,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        alpha=PLAIN_ALPHA if case.objective == "imae" else None,
        steps=ENDLESS,
    )
    batches = iter(loader)
    yield batches
    del batches  # ends the workers
