"""Which weights of a file are the model's: its entries, wrappers' prefixes, averages (EMA).

A file may hold several state dicts, and a state dict several models: a student and its average, an
encoder within a Lightning module. A model is where its patch embedding is; what stands before that
in the key belongs to wrappers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fastimae.engine.files import Unfit

# What belongs to a MAE's decoder, in MAE's names.
DECODER = ("decoder_", "mask_token")
# Looked through in this order, then whatever else a file has.
_ENTRIES = ("model", "state_dict", "model_state_dict", "module", "student")
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
_AVERAGED = {"ema", "average", "averaged", "avg", "swa", "shadow", "teacher", "momentum", "target"}
# Counters, BatchNorm's and those of thop's profile: they act on nothing.
_COUNTERS = ("num_batches_tracked", "total_ops", "total_params")
_PATCHES = re.compile(
    r"(?P<prefix>(?:.+?\.)??)"
    r"(?:patch_embed\.proj|(?:vit\.)?embeddings\.patch_embeddings\.projection)\.weight"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model is: the entry ("" for the file itself), and what precedes its names."""

    entry: str
    prefix: str

    @property
    def averaged(self) -> bool:
        """Whether its names say that these are averages over the training: EMA, SWA, a teacher."""
        return not _AVERAGED.isdisjoint(re.split(r"[._]", f"{self.entry}.{self.prefix}".lower()))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.entry, self.prefix and f"names after {self.prefix}")))


@dataclasses.dataclass(frozen=True)
class Taken:
    """The weights of one model, under their own names, and what else there was.

    others: places of further models. left_out: keys beside the model, and counters.
    """

    weights: Mapping[str, Tensor]
    place: Place
    others: tuple[Place, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def remarkable(self) -> bool:
        """Whether there is more to say than that the file is a plain one."""
        return bool(self.place.prefix or self.others or self.left_out)


def take(content: Mapping[str, Any], *, averaged: bool = False) -> Taken:
    """The trained weights in a file's content, or with `averaged` their average.

    An average is taken unasked only where there is nothing else. Weights of anything but a vision
    transformer only lose the prefixes of DDP and torch.compile. Raises Unfit where there are no
    weights, or no average.
    """
    entries = dict(_state_dicts(content))
    if not entries:
        raise Unfit("holds no model weights", "the content")
    places = [Place(entry, prefix) for entry, keys in entries.items() for prefix in _prefixes(keys)]
    wanted = [place for place in places if place.averaged is averaged]
    if averaged and not wanted:
        raise Unfit("holds no averaged weights (EMA)", "the content")
    if not places:
        entry, keys = next(iter(entries.items()))
        return Taken({_WRAPPERS.sub("", key): w for key, w in keys.items()}, Place(entry, ""))
    chosen = (wanted or places)[0]
    others = tuple(place for place in places if place != chosen)
    weights, left_out = _within(entries[chosen.entry], chosen, others)
    return Taken(weights, chosen, others, left_out)


def _state_dicts(content: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Entries that hold tensors, the usual ones first; the file itself where it is one."""
    if any(torch.is_tensor(value) for value in content.values()):
        yield "", content
    order = [*(name for name in _ENTRIES if name in content), *content]
    for name in dict.fromkeys(order):
        value = content[name]
        if isinstance(value, Mapping) and any(torch.is_tensor(v) for v in value.values()):
            yield str(name), value


def _prefixes(keys: Mapping[str, Any]) -> list[str]:
    """What precedes each model's names, the shortest first."""
    matches = (_PATCHES.fullmatch(key) for key in keys if isinstance(key, str))
    return sorted({match["prefix"] for match in matches if match}, key=len)


def _within(
    entry: Mapping[str, Any], chosen: Place, others: tuple[Place, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The chosen model's weights without its prefix, and the keys that are no part of any model.

    A decoder that lies beside an encoder's prefix, or beside a part of it, belongs to the encoder.
    """
    prefixes = [chosen.prefix, *(other.prefix for other in others if other.entry == chosen.entry)]
    weights: dict[str, Tensor] = {}
    left_out = []
    for key, value in entry.items():
        owner = max((p for p in prefixes if key.startswith(p)), key=len, default=None)
        if owner not in (None, chosen.prefix) or not torch.is_tensor(value):
            continue
        own = owner == chosen.prefix
        name = key.removeprefix(chosen.prefix) if own else _beside(key, chosen.prefix)
        if own and key.endswith(_COUNTERS):
            continue
        counts = not value.is_floating_point() and value.ndim == 0  # as AveragedModel's n_averaged
        if name is None or counts:
            left_out.append(key)
        else:
            weights[name] = value
    return weights, tuple(left_out)


def _beside(key: str, prefix: str) -> str | None:
    """The name of a decoder's weight that lies outside an encoder's prefix; None for other keys."""
    parts = prefix.split(".")[:-1]
    outer = [".".join([*parts[:count], ""]) for count in range(len(parts), 0, -1)]
    names = (key.removeprefix(start) for start in (*outer, "") if key.startswith(start))
    return next((name for name in names if name.startswith(DECODER)), None)
