"""The tables of fastimae-eval cka: CKA by model, mask ratio and layer, its means, and as grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastimae.evaluate.figures.similarity_maps import MEAN

Row = dict[str, Any]
"""Columns "model", "mask_ratio", "layer", "cka" (None where there is none), and more."""


def mean_of(rows: Sequence[Row]) -> float | None:
    """Return the mean of a column of CKA; None if one of them is missing."""
    values = [row["cka"] for row in rows]
    return None if None in values else float(np.mean(values))


def means_of(table: Sequence[Row]) -> list[Row]:
    """Return a row for each model and mask ratio: means over the layers."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for row in table:
        groups.setdefault((row["model"], row["mask_ratio"]), []).append(row)
    return [
        {key: value for key, value in rows[0].items() if key != "layer"} | {"cka": mean_of(rows)}
        for rows in groups.values()
    ]


def grid_of(table: Sequence[Row], model: str) -> NDArray[np.float64]:
    """Return a model's CKA, float64 [layers, ratios], nan where there is none."""
    rows = [row for row in table if row["model"] == model]
    layers = 1 + max(row["layer"] for row in rows)
    return np.array([row["cka"] for row in rows], np.float64).reshape(-1, layers).T


def printed(table: Sequence[Row], means: Sequence[Row]) -> list[Row]:
    """Return the table to print: a row for each model and layer, and its means, over the ratios."""
    lines: dict[tuple[str, Any], Row] = {}
    for model in dict.fromkeys(row["model"] for row in table):
        for row in (*table, *means):
            if row["model"] == model:
                layer = row.get("layer", MEAN)
                line = lines.setdefault((model, layer), {"model": model, "layer": layer})
                line[f"{row['mask_ratio']:g}"] = row["cka"]
    return list(lines.values())
