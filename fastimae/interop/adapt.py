"""Weights for images of another size, or with other channels, than those of their file.

D = width, O = outputs of the first layer, C = channels, P = patch size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.facts import Fact
from fastimae.interop.image_size import (
    Size,
    checked_size,
    in_words,
    size_if_fitting,
    unknown_size_error,
)
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.log import log
from fastimae.models.positions import Grid, at_grid
from fastimae.settings import RGB

FIRST_LAYER, PREDICTION = "patch_embed.proj.weight", "decoder_pred."
_POSITIONS = ("pos_embed", "decoder_pos_embed")


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A checkpoint that fits other images.

    changes: what was done to each weight, by name. fresh: beginnings of names that it lacks now.
    """

    checkpoint: Checkpoint
    changes: dict[str, str]
    fresh: tuple[str, ...] = ()


def adapt(checkpoint: Checkpoint, size: Fact | None, img_size: Size, in_chans: int) -> Adapted:
    """Make a checkpoint's weights fit images of a size and a number of channels.

    size: that of the file's images, see `determine_facts`. If it is unknown, or assumed, and the
    positions are as many as these images have patches, they count as theirs. img_size: (height,
    width). What fits stays as it is. Positions that are fixed sines and cosines are made for the
    new size, trained ones are resized as timm does; the class token's stays. The first layer is
    inflated or summed as timm does for files of RGB images, and averaged for others; the layer that
    predicts pixels cannot be adapted, and is left out. Raises CheckpointError for a size that is no
    multiple of the patches, and if the size is unknown.
    """
    weights, changes = dict(checkpoint.weights), {}
    before = _size_before(checkpoint, size, img_size)
    if before != img_size:
        grids = [_grid(checkpoint, each) for each in (before, img_size)]
        positions = checkpoint.shapes["pos_embed"][1]
        source = f"the file's are for {in_words(before)}"
        if size.source == "assumed":
            source += f", assumed {size.reason}: fastimae-import --input_size changes that"
        for name in _POSITIONS:
            if name not in weights or weights[name].shape[1] != positions:
                continue  # a decoder of another kind
            weights[name], how = at_grid(weights[name].float(), *grids)
            changes[name] = f"{how} for images of {in_words(img_size)} pixels; {source}"
    in_file = weights[FIRST_LAYER].shape[1]
    if in_file == in_chans:
        return Adapted(checkpoint.with_weights(weights) if changes else checkpoint, changes)
    weights[FIRST_LAYER], how = first_layer_for(weights[FIRST_LAYER], in_chans)
    changes[FIRST_LAYER] = f"{how} for in_chans {in_chans}; the file's is for {in_file}"
    fresh = (PREDICTION,) if f"{PREDICTION}weight" in weights else ()
    if fresh:
        changes[f"{PREDICTION}weight"] = f"fresh; the file's is for in_chans {in_file}"
    return Adapted(checkpoint.with_weights(weights).without(*fresh), changes, fresh)


def adapt_with_facts(
    checkpoint: Checkpoint,
    facts: Mapping[str, Fact],
    img_size: int | Sequence[int] | None,
    in_chans: int | None,
) -> tuple[Adapted, dict[str, Fact]]:
    """Call `adapt`; also return the facts of the adapted file. None: as the file.

    Mean and deviation follow the first layer, unless the user gave them.
    """
    size, adapted_facts = facts.get("input_size"), dict(facts)
    if img_size is not None:
        adapted_facts["input_size"] = Fact(checked_size(checkpoint, img_size), "flag")
    elif size is None:
        raise unknown_size_error(checkpoint)
    in_chans = in_chans or checkpoint.shapes[FIRST_LAYER][1]
    adapted = adapt(checkpoint, size, adapted_facts["input_size"].value, in_chans)
    for name in ("mean", "std") if FIRST_LAYER in adapted.changes else ():
        if facts[name].source != "flag":
            values = channels_for(facts[name].value, in_chans)
            adapted_facts[name] = dataclasses.replace(facts[name], value=values)
            adapted.changes[FIRST_LAYER] += f"; so is its {name}"
    return adapted, adapted_facts if adapted.changes else dict(facts)


def report_changes(checkpoint: Checkpoint, changes: Mapping[str, str]) -> None:
    """Log a line for each thing that was done."""
    for how in dict.fromkeys(changes.values()):
        names = " and ".join(name for name, done in changes.items() if done == how)
        log.info("%s: %s %s", checkpoint.path, names, how)


def _size_before(checkpoint: Checkpoint, size: Fact | None, img_size: Size) -> Size:
    """Return the size that the file's positions are for."""
    if size and size.source != "assumed":
        return size.value
    if size_if_fitting(img_size, checkpoint.shapes):
        return img_size
    if size is None:
        hints = checkpoint.hints.without("input_size")  # which is the size to adapt to
        raise unknown_size_error(dataclasses.replace(checkpoint, hints=hints))
    return size.value


def _grid(checkpoint: Checkpoint, size: Size) -> Grid:
    patch = checkpoint.shapes[FIRST_LAYER][-1]
    if size[0] % patch or size[1] % patch:
        raise CheckpointError(
            f"{checkpoint.path} has patches of {patch} x {patch} pixels, which do not fill images "
            f"of {in_words(size)}: change {checkpoint.hints.to_set('input_size')}"
        )
    return size[0] // patch, size[1] // patch


def first_layer_for(weight_OCPP: Tensor, in_chans: int) -> tuple[Tensor, str]:
    """Return the first layer's weight for another number of channels, fp32, and how it is made.

    RGB is repeated from its first channel on, and one channel is the sum of all, as in timm. Other
    channels are not alike, so that each new one gets their mean. All are scaled by the quotient of
    the numbers of channels, so that embeddings keep their size.
    """
    before, weight_OCPP = weight_OCPP.shape[1], weight_OCPP.float()
    if in_chans == 1:
        return weight_OCPP.sum(1, keepdim=True), "summed"
    how = "repeated" if before in (1, RGB) else "averaged"
    alike = weight_OCPP if how == "repeated" else weight_OCPP.mean(1, keepdim=True)
    copies = -(-in_chans // alike.shape[1])
    return alike.repeat(1, copies, 1, 1)[:, :in_chans] * (before / in_chans), how


def channels_for(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """Return mean or deviation for other channels, as `first_layer_for` makes their weights."""
    values = tuple(values)
    if in_chans > 1 and len(values) in (1, RGB):
        return (values * in_chans)[:in_chans]
    return (sum(values) / len(values),) * in_chans
