"""The probe in a file of fastimae-eval linear, or of MAE's linear probing, rebuilt."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from fastimae.engine.resume import ATTENTIVE_PROBE, kind_of
from fastimae.evaluate.labels.attentive import attentive_probe
from fastimae.evaluate.labels.probe_layer import probe_layer


def saved_probe(weights: Mapping[str, Tensor], heads: int) -> nn.Sequential:
    """Return the linear or the attentive probe of which these are the weights, in eval mode.

    weights: by their names in the file. heads: of an attentive probe, which its weights do not
    tell. Raises ValueError if they are of neither.
    """
    try:
        probe = _fresh(weights, heads)
        probe.load_state_dict(dict(weights))
    except (KeyError, RuntimeError) as error:
        raise ValueError("has other weights than a linear or an attentive probe") from error
    return probe.eval()


def _fresh(weights: Mapping[str, Tensor], heads: int) -> nn.Sequential:
    width = len(weights["0.running_mean"])
    if kind_of(weights) == ATTENTIVE_PROBE:
        return attentive_probe(width, heads, len(weights["2.bias"]), seed=0)
    return probe_layer(width, len(weights["1.bias"]))
