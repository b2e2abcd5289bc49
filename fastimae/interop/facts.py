"""Settings that shapes do not determine, and their source: a flag, the file, a name, a guess."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.image_size import (
    check_size,
    in_words,
    patches_of,
    size_from_positions,
    size_if_fitting,
    size_text,
    square_size,
)
from fastimae.interop.model_names import named_side, named_sizes
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.log import log
from fastimae.models.encoder import channel_statistics
from fastimae.models.names import DECODER, SIZES, name_hint

Source = Literal["flag", "file", "name", "assumed"]

HEADS = ("num_heads", "decoder_num_heads")
SETTINGS = (*HEADS, "input_size", "norm_pix_loss", "mean", "std")
# Weights compute something else with other values; those in our own files are certain.
FIXED = (*HEADS, "input_size")
DECODER_SETTINGS = ("decoder_num_heads", "norm_pix_loss")
ASSUMED = "assumed"
"""Entry of our files that lists the settings which an import assumed: see `settings_of`."""

_DECODERS = [{**DECODER, **size} for size in SIZES.values()]
USUAL_HEADS = {
    "num_heads": {size["embed_dim"]: size["num_heads"] for size in SIZES.values()},
    "decoder_num_heads": {d["decoder_embed_dim"]: d["decoder_num_heads"] for d in _DECODERS},
}
# The only official files with normalised targets; nothing in them says so.
_NORM_PIX_FILE = re.compile(r"mae_pretrain_vit_(base|large|huge)_full\.pth")


@dataclasses.dataclass(frozen=True)
class Fact:
    """A setting that shapes do not determine, its source, and the reason if it is assumed."""

    value: Any
    source: Source
    reason: str = ""


def determine_facts(
    checkpoint: Checkpoint, given: Mapping[str, Any], name: str | None
) -> dict[str, Fact]:
    """Return the facts of a checkpoint in our layout, by setting.

    given: the user's settings, which win over the file's, with a warning. name: the model's name,
    if the user gave it. Unknown heads are not included if no model has their width, nor is an
    unknown size if the number of positions is not a square. Raises CheckpointError if the user
    contradicts our own file's heads or size, or any file's number of positions, or if the name
    belongs to another width.
    """
    hints, width = checkpoint.hints, checkpoint.widths["num_heads"]
    named = named_sizes(name)
    if name and named.get("embed_dim") != width:
        why = f"does not fit its width of {width}" if named else f"is unknown: {name_hint(name)}"
        raise CheckpointError(f"{checkpoint.path}: {hints.to_set('model')} {name} {why}")
    given = {setting: value for setting, value in given.items() if value is not None}
    if size := given.get("input_size"):
        given["input_size"] = check_size(checkpoint, size)
    if named:
        given = {"num_heads": named["num_heads"], **given}
    facts = {}
    for setting in SETTINGS:
        stated = _stated_in_file(checkpoint, setting)
        if setting in given:
            _check_given(checkpoint, setting, stated, given[setting])
            fact = Fact(given[setting], "flag")
        else:
            by_name = _named_decoder(checkpoint, setting, named)
            fact = stated or by_name or _assumed(checkpoint, setting)
        if fact and (setting not in HEADS or _divides(checkpoint, setting, fact)):
            facts[setting] = fact
    return facts


def describes_file(checkpoint: Checkpoint, size: Any) -> bool:
    """Return whether a size that the user gave says how a file's positions are arranged.

    It does if the file does not say, and they are as many. Else it is a size to adapt them to.
    """
    stated = _stated_in_file(checkpoint, "input_size")
    return stated is None and size_if_fitting(size, checkpoint.shapes) is not None


def _divides(checkpoint: Checkpoint, setting: str, fact: Fact) -> bool:
    """Return whether the heads divide their width.

    Raises CheckpointError if the user's or the encoder's do not.
    """
    width = checkpoint.widths.get(setting, 0)
    if fact.value > 0 and width % fact.value == 0:
        return True
    if fact.source == "flag" or setting not in DECODER_SETTINGS:
        raise CheckpointError(
            f"{checkpoint.path}: {setting} {fact.value} does not divide its width of {width}: "
            f"change {checkpoint.hints.to_set(setting)}"
        )
    return False


def report_assumptions(checkpoint: Checkpoint, facts: Mapping[str, Fact], *, decoder: bool) -> None:
    """Log in one line what is assumed about a file and how to change that, if anything is."""
    assumed = {
        setting: fact for setting, fact in facts.items()
        if fact.source == "assumed" and (decoder or setting not in DECODER_SETTINGS)
    }  # fmt: skip
    if assumed:
        assumptions = ", ".join(dict.fromkeys(_describe(*item) for item in assumed.items()))
        verb = "change" if len(assumed) > 1 else "changes"
        flags = checkpoint.hints.to_set(*assumed)
        log.warning("%s: %s: %s %s that", checkpoint.path, assumptions, flags, verb)


def _describe(setting: str, fact: Fact) -> str:
    if setting in HEADS:
        part = "of its decoder " if setting in DECODER_SETTINGS else ""
        return f"{fact.value} attention heads {part}assumed {fact.reason}"
    if setting == "norm_pix_loss":
        kind = "normalised" if fact.value else "raw"
        return f"{kind} pixels as its targets assumed {fact.reason}".rstrip()
    if setting == "input_size":
        return f"images of {in_words(fact.value)} pixels assumed {fact.reason}"
    return f"mean and deviation assumed {fact.reason}"


def _stated_in_file(checkpoint: Checkpoint, setting: str) -> Fact | None:
    """Return what the file itself states, or the name of its model implies."""
    if setting in checkpoint.args.get(ASSUMED, ()):
        return None
    if setting == "input_size":
        return _size_in_file(checkpoint)
    value = _plain(checkpoint.args.get(setting))
    per_channel = setting in ("mean", "std")
    if value is not None and not (per_channel and len(value) != _channels(checkpoint)):
        return Fact(value, "file")
    if setting in HEADS and checkpoint.named_sizes:
        if setting == "num_heads":
            return Fact(checkpoint.named_sizes[setting], "name")
        return _named_decoder(
            checkpoint, setting, checkpoint.named_sizes, any_width=checkpoint.ours
        )
    # A file without a decoder, such as a classifier's, states nothing about one.
    unstated = HEADS if "decoder_num_heads" in checkpoint.widths else (*HEADS, *DECODER_SETTINGS)
    if checkpoint.ours and setting not in unstated:
        return Fact(_default(checkpoint, setting), "file")
    return None


def _size_in_file(checkpoint: Checkpoint) -> Fact | None:
    """Return the size by the positions; else by the settings, else by the name, if it fits."""
    shapes, args = checkpoint.shapes, checkpoint.args
    if size := size_from_positions(checkpoint.weights.get("pos_embed"), shapes):
        return Fact(size, "file", "by its positions")
    if size := size_if_fitting(args.get("input_size"), shapes):
        return Fact(size, "file")
    size = size_if_fitting(named_side(args.get("model")), shapes)
    return Fact(size, "name") if size else None


def _named_decoder(
    checkpoint: Checkpoint, setting: str, named: Mapping[str, Any], *, any_width: bool = False
) -> Fact | None:
    """Return the heads of a named model's decoder, if this is that decoder.

    any_width: the name is from our own file, whose decoder may have another width.
    """
    width = checkpoint.widths.get("decoder_num_heads")
    if setting != "decoder_num_heads" or not named or width is None:
        return None
    fits = any_width or width == named["decoder_embed_dim"]
    return Fact(named[setting], "name") if fits else None


def _default(checkpoint: Checkpoint, setting: str) -> Any:
    """Return our default for targets, mean or deviation."""
    if setting == "norm_pix_loss":
        return False
    mean, std = channel_statistics(_channels(checkpoint), None, None)
    return mean if setting == "mean" else std


def _plain(value: Any) -> Any:
    """Turn lists into tuples, as settings are here."""
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


def _check_given(checkpoint: Checkpoint, setting: str, stated: Fact | None, given: Any) -> None:
    """Warn if the file contradicts the user; raise for heads and size of our own files."""
    if stated is None or _plain(stated.value) == _plain(given):
        return
    hints = checkpoint.hints
    before, now = (
        size_text(value) if setting == "input_size" else value for value in (stated.value, given)
    )
    if checkpoint.ours and setting in FIXED:
        model = f" (or {hints.to_set('model')}, if that implies it)" if setting in HEADS else ""
        raise CheckpointError(
            f"{checkpoint.path} was trained with {setting} {before}, not {now}: drop "
            f"{hints.to_set(setting)}{model}"
        )
    log.warning(
        "%s says %s %s: overridden by %s %s",
        checkpoint.path, setting, before, hints.to_set(setting), now,
    )  # fmt: skip
