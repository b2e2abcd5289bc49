"""The result of converting a state dict to another layout, with an account of every key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from fastimae.engine.find_weights import DECODER

Shapes = Mapping[str, tuple[int, ...]]

# Names of a classifier's weights, in our layout and in timm's.
CLASSIFIER = ("head.", "fc_norm.")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A state dict in its new layout, and an account of the old one's keys.

    renamed: old name -> new name, if they differ. dropped: old names without a counterpart.
    filled: new name -> what it was filled with, for names that the old layout lacks.
    """

    weights: Mapping[str, Tensor]
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    filled: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def summary(self) -> str:
        """Return one line: the number of keys, and which were renamed, dropped and filled."""
        parts = [f"{len(self.weights)} keys"]
        if self.renamed:
            old, new = next(iter(self.renamed.items()))
            parts.append(f"{len(self.renamed)} renamed ({old} -> {new}, ...)")
        if self.dropped:
            # decoder_blocks.0.norm1.weight and the like are listed once, as decoder_blocks
            families = ", ".join(dict.fromkeys(name.split(".")[0] for name in self.dropped))
            parts.append(f"{len(self.dropped)} dropped ({families})")
        parts += [f"filled {name} with {what}" for name, what in self.filled.items()]
        return "; ".join(parts)


def encoder_of(weights: Mapping[str, Tensor]) -> Conversion:
    """Drop the decoder from weights in our layout."""
    dropped = tuple(name for name in weights if name.startswith(DECODER))
    return Conversion({k: v for k, v in weights.items() if k not in dropped}, dropped=dropped)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight, by name."""
    return {name: tuple(value.shape) for name, value in weights.items()}
