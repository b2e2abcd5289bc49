"""Operations of a case's training step: the product's own formula, `fastimae.models.flops`."""

from __future__ import annotations

import functools

import torch

from benchmarks.train.cases import Case, make_models
from fastimae.objectives import IMAE, MAE


@functools.cache
def train_flops(case: Case) -> int:
    """For one image, forward and backward; i-MAE: for one mixture, with two teacher passes."""
    with torch.device("meta"):  # sizes only: weights would take seconds to make
        models = make_models(case)
    return {"mae": MAE, "imae": IMAE}[case.objective](*models).train_flops()
