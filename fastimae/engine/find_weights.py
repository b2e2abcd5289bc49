"""Find a model's weights in a checkpoint: among its entries, wrappers' prefixes, averages (EMA).

A file may hold several state dicts, and a state dict several models: a student and its average, an
encoder inside a Lightning module. Each patch embedding marks a model; what precedes it in the key
is a wrapper's prefix.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit

# How MAE names the weights of its decoder.
DECODER = ("decoder_", "mask_token")
# Entries of a file that are searched first, in this order.
_ENTRIES = ("model", "state_dict", "model_state_dict", "module", "student", "model_ema")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
_AVERAGED = {"ema", "average", "averaged", "avg", "swa", "shadow", "teacher", "momentum", "target"}
# Counters of BatchNorm and of thop's profile: they have no effect on outputs.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
_PATCHES = re.compile(
    r"(?P<prefix>(?:.+?\.)??)"
    r"(?:patch_embed\.proj|(?:vit\.)?embeddings\.patch_embeddings\.projection)\.weight"
)


@dataclasses.dataclass(frozen=True)
class Location:
    """Where a model is in a file: the entry ("" for the file itself), and its names' prefix."""

    entry: str
    prefix: str

    @property
    def averaged(self) -> bool:
        """Whether its name marks an average over the training: EMA, SWA, a teacher."""
        return not _AVERAGED.isdisjoint(re.split(r"[._]", f"{self.entry}.{self.prefix}".lower()))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.entry, self.prefix and f"names after {self.prefix}")))


@dataclasses.dataclass(frozen=True)
class ModelWeights:
    """The weights of one model, without prefixes, and what else the file holds.

    others: where further models are. left_out: keys that belong to no model, and counters.
    """

    weights: Mapping[str, Tensor]
    location: Location
    others: tuple[Location, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def remarkable(self) -> bool:
        """Whether to log which weights these are: the file holds more than a plain state dict."""
        return bool(self.location.prefix or self.others or self.left_out)


def find_weights(content: Mapping[str, Any], *, averaged: bool = False) -> ModelWeights:
    """Return the trained weights in a file's content, or with `averaged` their average.

    Without `averaged`, an average is returned only if there is nothing else. Weights of anything
    but a vision transformer merely lose the prefixes of DDP and torch.compile. Raises Unfit if
    there are no weights, or no average.
    """
    entries = dict(_state_dicts(content))
    if not entries:
        raise Unfit("holds no model weights", "the content")
    models = [
        Location(entry, prefix) for entry, keys in entries.items() for prefix in _prefixes(keys)
    ]
    wanted = [model for model in models if model.averaged is averaged]
    if averaged and not wanted:
        raise Unfit("holds no averaged weights (EMA)", "the content")
    if not models:
        entry, keys = next(iter(entries.items()))
        return ModelWeights(
            {_WRAPPERS.sub("", key): w for key, w in keys.items()}, Location(entry, "")
        )
    chosen = (wanted or models)[0]
    others = tuple(model for model in models if model != chosen)
    weights, left_out = _weights_of(entries[chosen.entry], chosen, others)
    return ModelWeights(weights, chosen, others, left_out)


def _state_dicts(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the entries that hold tensors, usual names first, and the file itself if it does."""
    if any(torch.is_tensor(value) for value in content.values()):
        yield "", content
    order = [*(name for name in _ENTRIES if name in content), *content]
    for name in dict.fromkeys(order):
        value = content[name]
        if isinstance(value, Mapping) and any(torch.is_tensor(v) for v in value.values()):
            yield str(name), value


def _prefixes(keys: Mapping[str, Any]) -> list[str]:
    """Return the prefix of each model in a state dict, the shortest first."""
    matches = (_PATCHES.fullmatch(key) for key in keys if isinstance(key, str))
    return sorted({match["prefix"] for match in matches if match}, key=len)


def _weights_of(
    entry: Mapping[str, Any], chosen: Location, others: tuple[Location, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the chosen model's weights without its prefix, and the keys that belong to no model.

    A decoder outside an encoder's prefix, or under only a part of it, belongs to that encoder.
    """
    prefixes = [chosen.prefix, *(other.prefix for other in others if other.entry == chosen.entry)]
    weights: dict[str, Tensor] = {}
    left_out = []
    for key, value in entry.items():
        owner = max((p for p in prefixes if key.startswith(p)), key=len, default=None)
        if owner not in (None, chosen.prefix) or not torch.is_tensor(value):
            continue
        inside = owner == chosen.prefix
        name = key.removeprefix(chosen.prefix) if inside else _decoder_name(key, chosen.prefix)
        if inside and key.endswith(_COUNTERS):
            continue
        counter = not value.is_floating_point() and value.ndim == 0  # AveragedModel's n_averaged
        if name is None or counter:
            left_out.append(key)
        else:
            weights[name] = value
    return weights, tuple(left_out)


def _decoder_name(key: str, prefix: str) -> str | None:
    """Return the name of a decoder's weight outside an encoder's prefix; None for other keys."""
    parts = prefix.split(".")[:-1]
    outer = [".".join([*parts[:count], ""]) for count in range(len(parts), 0, -1)]
    names = (key.removeprefix(start) for start in (*outer, "") if key.startswith(start))
    # Not mask_token.weight: that is one of C-MAE's encoder.
    ours = (name for name in names if name.startswith(DECODER) and name != "mask_token.weight")
    return next(ours, None)
