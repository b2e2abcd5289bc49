"""What shapes do not tell of a model, and who says it: the user, the file, a name, or nobody."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.files import Checkpoint
from fastimae.interop.grids import (
    fitting,
    given_size,
    in_words,
    patches_of,
    size_by_positions,
    square_size,
)
from fastimae.interop.hints import Hints
from fastimae.interop.names import named_side, named_sizes
from fastimae.models import DECODER, SIZES, advice
from fastimae.models.mae import channel_statistics

log = logging.getLogger("fastimae")

Shapes = Mapping[str, tuple[int, ...]]
Source = Literal["flag", "file", "name", "assumed"]

HEADS = ("num_heads", "decoder_num_heads")
SETTINGS = (*HEADS, "input_size", "norm_pix_loss", "mean", "std")
# Weights with others compute something else; what a file of ours says of them is so.
FIXED = (*HEADS, "input_size")
OF_DECODER = ("decoder_num_heads", "norm_pix_loss")

_DECODERS = [{**DECODER, **size} for size in SIZES.values()]
USUAL_HEADS = {
    "num_heads": {size["embed_dim"]: size["num_heads"] for size in SIZES.values()},
    "decoder_num_heads": {d["decoder_embed_dim"]: d["decoder_num_heads"] for d in _DECODERS},
}
# The only official files with normalised targets; they do not say so themselves.
_NORM_PIX_FILE = re.compile(r"mae_pretrain_vit_(base|large|huge)_full\.pth")


@dataclasses.dataclass(frozen=True)
class Fact:
    """A setting that shapes do not tell. source: who said it; reason: why it is assumed."""

    value: Any
    source: Source
    reason: str = ""


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight, by name."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def facts_of(
    checkpoint: Checkpoint,
    shapes: Shapes,
    given: Mapping[str, Any],
    name: str | None,
    hints: Hints,
) -> dict[str, Fact]:
    """The facts of a checkpoint whose weights, under our names, have these shapes, by setting.

    given: what the user says; it wins over the file, with a warning. name: of the model, as the
    user says. Heads that nobody tells, and whose width no model has, are not among them, nor is a
    size that nobody tells of positions that are no square. Raises CheckpointError where a user
    contradicts our own file's heads or size, or the number of its positions, or the name is of
    another width.
    """
    width = shapes["cls_token"][-1]
    named = named_sizes(name)
    if name and named.get("embed_dim") != width:
        why = f"does not fit its width of {width}" if named else f"is not known: {advice(name)}"
        raise CheckpointError(f"{checkpoint.path}: {hints.to_set('model')} {name} {why}")
    given = {setting: value for setting, value in given.items() if value is not None}
    if size := given.get("input_size"):
        given["input_size"] = given_size(checkpoint.path, size, shapes, hints)
    if named:
        given = {"num_heads": named["num_heads"], **given}
    facts = {}
    for setting in SETTINGS:
        stated = _stated(checkpoint, setting, shapes)
        wish = given.get(setting)
        if wish is not None:
            _compare(checkpoint, setting, stated, wish, hints)
            facts[setting] = Fact(wish, "flag")
            continue
        named_one = _named_decoder(setting, named, shapes)
        if fact := stated or named_one or _assumed(checkpoint, setting, shapes):
            facts[setting] = fact
    return {
        setting: fact for setting, fact in facts.items()
        if setting not in HEADS or _divides(checkpoint, setting, fact, shapes, hints)
    }  # fmt: skip


def _divides(
    checkpoint: Checkpoint, setting: str, fact: Fact, shapes: Shapes, hints: Hints
) -> bool:
    """Whether the heads divide their width. What the user says must, as must the encoder's."""
    width = widths(shapes).get(setting, 0)
    if fact.value > 0 and width % fact.value == 0:
        return True
    if fact.source == "flag" or setting not in OF_DECODER:
        raise CheckpointError(
            f"{checkpoint.path}: {setting} {fact.value} does not divide its width of {width}: "
            f"change {hints.to_set(setting)}"
        )
    return False


def widths(shapes: Shapes) -> dict[str, int]:
    """What the heads divide, by setting: the width of the encoder, and of a decoder."""
    found = {"num_heads": shapes["cls_token"][-1]}
    decoder = shapes.get("mask_token") or shapes.get("decoder_embed.bias")
    return found | ({"decoder_num_heads": decoder[-1]} if decoder else {})


def tell(path: object, facts: Mapping[str, Fact], hints: Hints, *, decoder: bool) -> None:
    """One line on what is assumed of a file, and how to change that; nothing where all is known."""
    assumed = {
        setting: fact for setting, fact in facts.items()
        if fact.source == "assumed" and (decoder or setting not in OF_DECODER)
    }  # fmt: skip
    if assumed:
        said = ", ".join(dict.fromkeys(_in_words(*item) for item in assumed.items()))
        verb = "change" if len(assumed) > 1 else "changes"
        log.warning("%s: %s: %s %s that", path, said, hints.to_set(*assumed), verb)


def _in_words(setting: str, fact: Fact) -> str:
    if setting in HEADS:
        of = "of its decoder " if setting in OF_DECODER else ""
        return f"{fact.value} attention heads {of}assumed {fact.reason}"
    if setting == "norm_pix_loss":
        kind = "normalised" if fact.value else "raw"
        return f"{kind} pixels as its targets assumed {fact.reason}".rstrip()
    if setting == "input_size":
        return "images of {} x {} pixels assumed ".format(*fact.value) + fact.reason
    return f"mean and deviation assumed {fact.reason}"


def _stated(checkpoint: Checkpoint, setting: str, shapes: Shapes) -> Fact | None:
    """What the file itself says, be it by the name of its model."""
    if setting in checkpoint.assumed:
        return None
    if setting == "input_size":
        return _stated_size(checkpoint, shapes)
    value = checkpoint.args.get(setting)
    if value is not None and not _wrong_length(setting, value, shapes):
        return Fact(tuple(value) if isinstance(value, list) else value, "file")
    named = named_sizes(checkpoint.args.get("model"))
    if setting == "num_heads" and named.get("embed_dim") == shapes["cls_token"][-1]:
        return Fact(named[setting], "name")
    if setting == "decoder_num_heads" and named.get("embed_dim") == shapes["cls_token"][-1]:
        return _named_decoder(setting, named, shapes, any_width=checkpoint.ours)
    if checkpoint.ours and setting not in (*HEADS, *_without_decoder(shapes)):
        return Fact(_default(setting, shapes), "file")
    return None


def _stated_size(checkpoint: Checkpoint, shapes: Shapes) -> Fact | None:
    """That of the only grid with such positions; else the settings', if it fits; a name's."""
    if size := size_by_positions(checkpoint.weights.get("pos_embed"), shapes):
        return Fact(size, "file", "by its positions")
    if size := fitting(checkpoint.args.get("input_size"), shapes):
        return Fact(size, "file")
    size = fitting(named_side(checkpoint.args.get("model")), shapes)
    return Fact(size, "name") if size else None


def _without_decoder(shapes: Shapes) -> tuple[str, ...]:
    """Settings of which a file tells nothing that has no decoder, as a classifier's."""
    return () if "decoder_num_heads" in widths(shapes) else OF_DECODER


def _named_decoder(
    setting: str, named: Mapping[str, Any], shapes: Shapes, *, any_width: bool = False
) -> Fact | None:
    """The heads of a named model's decoder, if this is its decoder. Ours may have any width."""
    width = widths(shapes).get("decoder_num_heads")
    if setting != "decoder_num_heads" or not named or width is None:
        return None
    fits = any_width or width == named["decoder_embed_dim"]
    return Fact(named[setting], "name") if fits else None


def _default(setting: str, shapes: Shapes) -> Any:
    """Ours for targets, mean and deviation."""
    if setting == "norm_pix_loss":
        return False
    mean, std = channel_statistics(shapes["patch_embed.proj.weight"][1], None, None)
    return mean if setting == "mean" else std


def _wrong_length(setting: str, value: Any, shapes: Shapes) -> bool:
    """Whether means or deviations are of another number of channels than the weights."""
    return setting in ("mean", "std") and len(value) != shapes["patch_embed.proj.weight"][1]


def _assumed(checkpoint: Checkpoint, setting: str, shapes: Shapes) -> Fact | None:
    if setting in checkpoint.assumed and setting in checkpoint.args:
        value = checkpoint.args[setting]
        return Fact(tuple(value) if isinstance(value, list) else value, "assumed", "by its import")
    if setting == "input_size":
        size = square_size(shapes)
        return Fact(size, "assumed", f"from its {patches_of(shapes)} positions") if size else None
    if setting == "norm_pix_loss":
        named = bool(_NORM_PIX_FILE.fullmatch(checkpoint.path.name))
        return Fact(named, "assumed", "from its name" if named else "")
    if setting not in HEADS:
        usual = "as ImageNet's" if shapes["patch_embed.proj.weight"][1] == 3 else "as 0.5"
        return Fact(_default(setting, shapes), "assumed", usual)
    width = widths(shapes).get(setting)
    heads = USUAL_HEADS[setting].get(width)
    if heads is None and setting == "decoder_num_heads" and width is not None:
        heads = DECODER[setting] if width % DECODER[setting] == 0 else None
    return Fact(heads, "assumed", f"from its width of {width}") if heads else None


def _compare(
    checkpoint: Checkpoint, setting: str, stated: Fact | None, wish: Any, hints: Hints
) -> None:
    """A warning where the file says otherwise than the user; of what is fixed in ours an error."""
    if stated is None or _same(stated.value, wish):
        return
    before, now = (
        in_words(value) if setting == "input_size" else value for value in (stated.value, wish)
    )
    if checkpoint.ours and setting in FIXED:
        model = f", or {hints.to_set('model')} if that says so" if setting in HEADS else ""
        raise CheckpointError(
            f"{checkpoint.path} was trained with {setting} {before}, not {now}: leave "
            f"{hints.to_set(setting)} out{model}"
        )
    log.warning(
        "%s says %s %s: %s %s wins over that",
        checkpoint.path, setting, before, hints.to_set(setting), now,
    )  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    """Equal, lists like tuples."""
    as_tuple = (tuple(value) if isinstance(value, Iterable) else value for value in (a, b))
    return len(set(as_tuple)) == 1
