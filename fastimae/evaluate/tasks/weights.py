"""fastimae-eval weights: how weights are distributed and how sparse, for one model or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.evaluate.candidates import candidates_of
from fastimae.evaluate.differences import labels_of
from fastimae.evaluate.figures.weight_measures import (
    SPARSITY,
    layers_of,
    matrices_of,
    measure,
    parts_of,
)
from fastimae.evaluate.figures.weight_plots import draw_layers, draw_models, draw_sparsity
from fastimae.evaluate.options.figures import WeightsOptions
from fastimae.evaluate.origin import origin_of
from fastimae.evaluate.pages.tables import markdown
from fastimae.evaluate.results import open_results
from fastimae.log import log
from fastimae.progress import tracked

PICTURE, OVER_LAYERS = "weights.png", "sparsity.png"
Row = dict[str, Any]


def run(options: WeightsOptions) -> None:
    """Draw weights.png and sparsity.png, and write results.json with the measures."""
    with open_results(options, "weights") as results:
        candidates = candidates_of(options, torch.device("cpu"), encoder_only=True)
        origin = origin_of(options.checkpoint, candidates[0].model)
        matrices = {one.name: matrices_of(one.model) for one in candidates}
        if len(candidates) == 1:
            draw_layers(matrices[candidates[0].name], results.picture(PICTURE))
        else:
            labels = [label.replace("\n", ", ") for label in labels_of(candidates)]
            draw_models(dict(zip(labels, matrices.values(), strict=True)), results.picture(PICTURE))
        numbers = _tables(matrices)
        draw_sparsity(numbers["layers"], results.picture(OVER_LAYERS))
        if len(candidates) == 1:
            for row in (row for table in numbers.values() for row in table):
                del row["model"]
        path = results.save(numbers, origin=origin)
        print(markdown(numbers["summary"]))
        log.info("%s and 2 pictures beside it", path)


def _tables(models: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[Row]]:
    """Measure each model's encoder and decoder, the layers of its encoder, and all matrices.

    models: name -> matrices. Matrices of unlike spreads together are a peaked distribution; "table"
    has each by itself.
    """
    tables: dict[str, list[Row]] = {"summary": [], "layers": [], "table": []}
    for model, matrices in models.items():
        for part, weights in parts_of(matrices).items():
            tables["summary"].append({"model": model, "weights": part, **measure(*weights)})
        for layer, weights in enumerate(layers_of(matrices)):
            measures = measure(*weights)
            row = {"model": model, "layer": layer, **{name: measures[name] for name in SPARSITY}}
            tables["layers"].append(row)
        for name, weight in tracked(matrices.items(), model, "matrix"):
            tables["table"].append({"model": model, "weight": name, **measure(weight)})
    return tables
