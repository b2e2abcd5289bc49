"""What became of each key when a state dict changed its layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from fastimae.engine.entries import DECODER

Shapes = Mapping[str, tuple[int, ...]]

# What the encoder-only layouts have no place for, beside the decoder. Our names, which are timm's.
CLASSIFIER = ("head.", "fc_norm.")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A state dict in its new layout, and an account of the old one's keys.

    renamed: old name -> new name, where they differ. dropped: old names without a place.
    filled: new names that the old layout did not have, and with what.
    """

    weights: Mapping[str, Tensor]
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    filled: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def summary(self) -> str:
        """One line: how many keys came of it, and which were renamed, dropped and filled in."""
        parts = [f"{len(self.weights)} keys"]
        if self.renamed:
            old, new = next(iter(self.renamed.items()))
            parts.append(f"{len(self.renamed)} renamed ({old} -> {new}, ...)")
        if self.dropped:
            # decoder_blocks.0.norm1.weight and its likes as one: decoder_blocks
            families = ", ".join(dict.fromkeys(name.split(".")[0] for name in self.dropped))
            parts.append(f"{len(self.dropped)} dropped ({families})")
        parts += [f"filled {name} with {what}" for name, what in self.filled.items()]
        return "; ".join(parts)


def encoder_of(weights: Mapping[str, Tensor]) -> Conversion:
    """Weights under our names without the decoder."""
    dropped = tuple(name for name in weights if name.startswith(DECODER))
    return Conversion({k: v for k, v in weights.items() if k not in dropped}, dropped=dropped)


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by name."""
    return {name: tuple(value.shape) for name, value in weights.items()}
