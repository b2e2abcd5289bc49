"""The released i-MAE's layout: MAE's names, with two heads beside an unused `decoder_embed`.

Our own i-MAE has the same names without that `decoder_embed`. With `head_space="encoder"` the heads
have the encoder's width and a shared `decoder_embed` follows; no other code knows that layout.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Literal

from torch import Tensor

from fastimae.engine.checkpoint_file import Unfit
from fastimae.interop.conversion import Conversion
from fastimae.interop.options import Head

HEADS = ("decoder_embed1.weight", "decoder_embed2.weight")
_HEAD = {"subordinate": "decoder_embed1", "dominant": "decoder_embed2"}
_UNUSED = tuple(f"decoder_embed.{kind}" for kind in ("weight", "bias"))


def head_space(names: Container[str]) -> Literal["decoder", "encoder"]:
    """Return whether an i-MAE's two heads map to the decoder's or to the encoder's width."""
    return "encoder" if _UNUSED[0] in names else "decoder"


def to_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert the released layout to ours: drop the unused `decoder_embed`.

    It is kept if the heads do not have the decoder's width: that is our `head_space="encoder"`.
    """
    if len(weights[HEADS[0]]) != weights["mask_token"].shape[-1]:
        return Conversion(weights)
    ours = {name: value for name, value in weights.items() if name not in _UNUSED}
    return Conversion(ours, dropped=tuple(name for name in _UNUSED if name in weights))


def from_mae(weights: Mapping[str, Tensor]) -> Conversion:
    """Convert our layout to the released one. Raises Unfit for heads in the encoder's width."""
    _refuse_encoder_space(weights)
    unused = {name: weights[name.replace("embed.", "embed2.")].clone() for name in _UNUSED}
    filled = dict.fromkeys(["decoder_embed"], "a copy of decoder_embed2 (the model ignores it)")
    return Conversion({**weights, **unused}, filled=filled)


def one_head(weights: Mapping[str, Tensor], head: Head) -> Conversion:
    """Convert an i-MAE in our layout to the plain MAE that reconstructs one of the two images.

    Raises Unfit for heads in the encoder's width.
    """
    _refuse_encoder_space(weights)
    keep = _HEAD[head]
    (drop,) = set(_HEAD.values()) - {keep}
    ours = {
        name.replace(f"{keep}.", "decoder_embed."): value
        for name, value in weights.items()
        if not name.startswith(f"{drop}.")
    }
    renamed = {f"{keep}.{kind}": f"decoder_embed.{kind}" for kind in ("weight", "bias")}
    return Conversion(ours, renamed, tuple(name for name in weights if name.startswith(f"{drop}.")))


def _refuse_encoder_space(weights: Mapping[str, Tensor]) -> None:
    if _UNUSED[0] in weights:
        raise Unfit(
            "has its heads in the encoder's width (--head_space encoder), which no other code "
            "knows: export it with --encoder_only"
        )
