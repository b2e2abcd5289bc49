"""Comparing models on mixtures over mixing ratios: what separability and mixtureprobe share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fastimae.evaluate.candidates import Candidate
from fastimae.evaluate.images import Images
from fastimae.evaluate.mixing.mixtures import PairBatches, Pairs, check_pairs
from fastimae.evaluate.options.mixtures import ComparisonOptions
from fastimae.models import MaskedAutoencoder
from fastimae.progress import tracked

Row = dict[str, Any]


def check_enough(options: ComparisonOptions, train: Images, val: Images) -> None:
    """Raise ConfigError if there are too few images for a pair."""
    check_pairs(train, options.batch_size, options.train_samples, "--train_samples")
    check_pairs(val, options.batch_size, options.val_samples, "--val_samples")


def pairs_of(
    options: ComparisonOptions, images: Images, model: MaskedAutoencoder, samples: int
) -> Iterable[Pairs]:
    """Return batches of pairs to mix, and show the progress; model: see `PairBatches`."""
    batches = PairBatches(
        images, model, samples=samples, batch_size=options.batch_size,
        workers=options.worker_count(), seed=options.seed,
    )  # fmt: skip
    return tracked(batches, images.source.name, "batch")


def rows_of(
    candidates: Sequence[Candidate],
    mix_ratios: Sequence[float],
    measure: Callable[[int, float], Mapping[str, Any]],
) -> list[Row]:
    """Return the table: a row for each candidate and ratio.

    measure: (number of the candidate, ratio) -> its columns. A progress bar counts the rows.
    """
    keys = list(itertools.product(enumerate(candidates), mix_ratios))
    return [
        {
            "model": candidate.name, "kind": candidate.kind, "mix_ratio": ratio,
            **measure(number, ratio),
        }
        for (number, candidate), ratio in tracked(keys, "fitting", "fit")
    ]  # fmt: skip
