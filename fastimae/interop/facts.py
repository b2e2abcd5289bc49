"""What shapes do not tell of a model, and who says it: the user, the file, a name, or nobody."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.grids import (
    fitting,
    given_size,
    in_words,
    patches_of,
    size_by_positions,
    square_size,
)
from fastimae.interop.names import named_side, named_sizes
from fastimae.interop.open import Checkpoint
from fastimae.log import log
from fastimae.models import DECODER, SIZES, advice
from fastimae.models.mae import channel_statistics

Source = Literal["flag", "file", "name", "assumed"]

HEADS = ("num_heads", "decoder_num_heads")
SETTINGS = (*HEADS, "input_size", "norm_pix_loss", "mean", "std")
# Weights with others compute something else; what a file of ours says of them is so.
FIXED = (*HEADS, "input_size")
OF_DECODER = ("decoder_num_heads", "norm_pix_loss")
ASSUMED = "assumed"
"""The settings that a file has from our import, which assumed them: see `settings_of`."""

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


def facts_of(checkpoint: Checkpoint, given: Mapping[str, Any], name: str | None) -> dict[str, Fact]:
    """The facts of a checkpoint, whose weights are under our names, by setting.

    given: what the user says; it wins over the file, with a warning. name: of the model, as the
    user says. Heads that nobody tells, and whose width no model has, are not among them, nor is a
    size that nobody tells of positions that are no square. Raises CheckpointError where a user
    contradicts our own file's heads or size, or the number of its positions, or the name is of
    another width.
    """
    hints, width = checkpoint.hints, checkpoint.widths["num_heads"]
    named = named_sizes(name)
    if name and named.get("embed_dim") != width:
        why = f"does not fit its width of {width}" if named else f"is not known: {advice(name)}"
        raise CheckpointError(f"{checkpoint.path}: {hints.to_set('model')} {name} {why}")
    given = {setting: value for setting, value in given.items() if value is not None}
    if size := given.get("input_size"):
        given["input_size"] = given_size(checkpoint, size)
    if named:
        given = {"num_heads": named["num_heads"], **given}
    facts = {}
    for setting in SETTINGS:
        stated = _stated(checkpoint, setting)
        if setting in given:
            _compare(checkpoint, setting, stated, given[setting])
            fact = Fact(given[setting], "flag")
        else:
            named_one = _named_decoder(checkpoint, setting, named)
            fact = stated or named_one or _assumed(checkpoint, setting)
        if fact and (setting not in HEADS or _divides(checkpoint, setting, fact)):
            facts[setting] = fact
    return facts


def _divides(checkpoint: Checkpoint, setting: str, fact: Fact) -> bool:
    """Whether the heads divide their width. What the user says must, as must the encoder's."""
    width = checkpoint.widths.get(setting, 0)
    if fact.value > 0 and width % fact.value == 0:
        return True
    if fact.source == "flag" or setting not in OF_DECODER:
        raise CheckpointError(
            f"{checkpoint.path}: {setting} {fact.value} does not divide its width of {width}: "
            f"change {checkpoint.hints.to_set(setting)}"
        )
    return False


def tell(checkpoint: Checkpoint, facts: Mapping[str, Fact], *, decoder: bool) -> None:
    """One line on what is assumed of a file, and how to change that; nothing where all is known."""
    assumed = {
        setting: fact for setting, fact in facts.items()
        if fact.source == "assumed" and (decoder or setting not in OF_DECODER)
    }  # fmt: skip
    if assumed:
        said = ", ".join(dict.fromkeys(_in_words(*item) for item in assumed.items()))
        verb = "change" if len(assumed) > 1 else "changes"
        how = checkpoint.hints.to_set(*assumed)
        log.warning("%s: %s: %s %s that", checkpoint.path, said, how, verb)


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


def _stated(checkpoint: Checkpoint, setting: str) -> Fact | None:
    """What the file itself says, be it by the name of its model."""
    if setting in checkpoint.args.get(ASSUMED, ()):
        return None
    if setting == "input_size":
        return _stated_size(checkpoint)
    value = _plain(checkpoint.args.get(setting))
    of_channels = setting in ("mean", "std")
    if value is not None and not (of_channels and len(value) != _channels(checkpoint)):
        return Fact(value, "file")
    if setting in HEADS and checkpoint.named:
        if setting == "num_heads":
            return Fact(checkpoint.named[setting], "name")
        return _named_decoder(checkpoint, setting, checkpoint.named, any_width=checkpoint.ours)
    # A file without a decoder, as a classifier's, tells nothing of one.
    untold = HEADS if "decoder_num_heads" in checkpoint.widths else (*HEADS, *OF_DECODER)
    if checkpoint.ours and setting not in untold:
        return Fact(_default(checkpoint, setting), "file")
    return None


def _stated_size(checkpoint: Checkpoint) -> Fact | None:
    """That of the only grid with such positions; else the settings', if it fits; a name's."""
    shapes, args = checkpoint.shapes, checkpoint.args
    if size := size_by_positions(checkpoint.taken.weights.get("pos_embed"), shapes):
        return Fact(size, "file", "by its positions")
    if size := fitting(args.get("input_size"), shapes):
        return Fact(size, "file")
    size = fitting(named_side(args.get("model")), shapes)
    return Fact(size, "name") if size else None


def _named_decoder(
    checkpoint: Checkpoint, setting: str, named: Mapping[str, Any], *, any_width: bool = False
) -> Fact | None:
    """The heads of a named model's decoder, if this is its decoder. Ours may have any width."""
    width = checkpoint.widths.get("decoder_num_heads")
    if setting != "decoder_num_heads" or not named or width is None:
        return None
    fits = any_width or width == named["decoder_embed_dim"]
    return Fact(named[setting], "name") if fits else None


def _default(checkpoint: Checkpoint, setting: str) -> Any:
    """Ours for targets, mean and deviation."""
    if setting == "norm_pix_loss":
        return False
    mean, std = channel_statistics(_channels(checkpoint), None, None)
    return mean if setting == "mean" else std


def _plain(value: Any) -> Any:
    """A list as the tuple that settings are here."""
    return tuple(value) if isinstance(value, list) else value


def _channels(checkpoint: Checkpoint) -> int:
    return checkpoint.shapes["patch_embed.proj.weight"][1]


def _assumed(checkpoint: Checkpoint, setting: str) -> Fact | None:
    shapes, args = checkpoint.shapes, checkpoint.args
    if setting in args.get(ASSUMED, ()) and setting in args:
        return Fact(_plain(args[setting]), "assumed", "by its import")
    if setting == "input_size":
        size = square_size(shapes)
        return Fact(size, "assumed", f"from its {patches_of(shapes)} positions") if size else None
    if setting == "norm_pix_loss":
        named = bool(_NORM_PIX_FILE.fullmatch(checkpoint.path.name))
        return Fact(named, "assumed", "from its name" if named else "")
    if setting not in HEADS:
        usual = "as ImageNet's" if _channels(checkpoint) == 3 else "as 0.5"
        return Fact(_default(checkpoint, setting), "assumed", usual)
    width = checkpoint.widths.get(setting)
    heads = USUAL_HEADS[setting].get(width)
    if heads is None and setting == "decoder_num_heads" and width is not None:
        heads = DECODER[setting] if width % DECODER[setting] == 0 else None
    return Fact(heads, "assumed", f"from its width of {width}") if heads else None


def _compare(checkpoint: Checkpoint, setting: str, stated: Fact | None, wish: Any) -> None:
    """A warning where the file says otherwise than the user; of what is fixed in ours an error."""
    if stated is None or _plain(stated.value) == _plain(wish):
        return
    hints = checkpoint.hints
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
