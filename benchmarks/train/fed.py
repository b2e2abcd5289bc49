"""Steps fed by the real loaders, and the share of their time that waits for data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.reference import plain_loader
from benchmarks.train.cases import Case
from benchmarks.train.measure import UNTIL_RECORDED, Row, checked, row, start_afresh
from benchmarks.train.plain import Plain
from benchmarks.train.variants import Way, Workshop
from fastimae.engine.throughput import throughput
from fastimae.loaders import DevicePrefetch, create_loader
from fastimae.loaders.sampler import endless
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD

ENDLESS = 10**6
PLAIN_ALPHA = 0.3
"""Weight of the subordinate image in the plain loader's mixtures. Its workers mix without knowing
the step, so it cannot be our draw; any weight takes them the same time."""


def measure_fed(
    case: Case,
    ways: dict[str, Way],
    device: torch.device,
    peak: float,
    *,
    beton: Path,
    folder: Path | None,
    num_workers: int,
    seconds: float,
) -> Iterator[list[Row]]:
    """Rows of variants that train on real images, one after the other; after each, those so far.

    Ours reads the .beton, the plain pipeline the folder of classes. Raises AssertionError for a
    wrong loss and DataError for data that cannot be read.
    """
    rows: list[Row] = []
    least = UNTIL_RECORDED if device.type == "cuda" else 1
    for name, way in ways.items():
        plain = isinstance(way, Plain)
        if plain and folder is None:
            continue
        start_afresh(device)
        workshop = Workshop(case, device, share=False)
        variant, note = checked(case, name, way, workshop)
        source = folder_batches if plain else beton_batches
        path = folder if plain else beton
        with source(case, path, workshop, num_workers) as batches:
            skip = max(least, min(2 * num_workers + 2, 40))
            spent, waited, count = throughput(
                variant.train, batches, device, seconds, skip=skip, least=least
            )
        data = f"{path.name} (ImageFolder)" if plain else path.name
        more = {"num_workers": num_workers, "data_wait": waited / spent, "note": note}
        found = row(case, name, way, spent / count, device, peak, data=data, **more)
        reference = rows[0] if rows else found if plain else None
        found["x_reference"] = reference and found["img_per_s"] / reference["img_per_s"]
        rows.append(found)
        del variant, workshop
        yield rows


@contextlib.contextmanager
def beton_batches(
    case: Case, path: Path, workshop: Workshop, num_workers: int
) -> Iterator[Iterator]:
    """Our loader's, on the device, as fastimae-train has them."""
    loader = create_loader(
        ffcv=path,
        input_size=(case.img_size, case.img_size),
        batch_size=case.batch_size(workshop.device),
        num_workers=num_workers,
        mix_group=32 if case.batch_size(workshop.device) % 32 == 0 else 0,
    )
    with DevicePrefetch(endless(loader), workshop.device) as prefetch:
        yield iter(prefetch)


@contextlib.contextmanager
def folder_batches(
    case: Case, path: Path, workshop: Workshop, num_workers: int
) -> Iterator[Iterator]:
    """The plain loader's, in host memory."""
    loader = plain_loader(
        path,
        input_size=case.img_size,
        batch_size=case.batch_size(workshop.device),
        num_workers=num_workers,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        alpha=PLAIN_ALPHA if case.objective == "imae" else None,
        steps=ENDLESS,
    )
    batches = iter(loader)
    yield batches
    del batches  # ends the workers
