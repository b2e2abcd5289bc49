"""Pre-trained masked autoencoders as i-MAE's teacher, or as a student's first weights.

Reads what `fastimae.interop.load_model` reads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, listed, load_weights
from fastimae.interop import imae
from fastimae.interop.conversion import DECODER
from fastimae.interop.facts import FIXED, HEADS, Fact, Shapes, facts_of, shapes_of, tell, widths
from fastimae.interop.files import Checkpoint
from fastimae.interop.finetuned import pools, without_classifier
from fastimae.interop.grids import in_words
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.load import build, decoder_misfit, open_checkpoint
from fastimae.interop.sizes import model_arguments
from fastimae.models import MaskedAutoencoder

log = logging.getLogger("fastimae")

# Parts of a teacher that give no latents: files without them will do.
_UNUSED_OF_TEACHER = (
    "decoder_blocks.",
    "decoder_norm.",
    "decoder_pred.",
    "decoder_pos_embed",
    "mask_token",
)


def load_teacher(
    path: Path,
    student: MaskedAutoencoder,
    name: str | None = None,
    *,
    num_heads: int | None = None,
    allow_partial: bool = False,
    hints: Hints = IN_PYTHON,
) -> MaskedAutoencoder:
    """A MAE for the student's image size, with the file's weights.

    name: of the teacher's model (--teach_model); num_heads: of its encoder (--teach_num_heads);
    read from the file where not given. Images reach it normalised as for the student: a line says
    so where the file was trained with another mean or deviation. Raises CheckpointError where the
    file does not hold such a MAE, or lacks what gives latents, which allow_partial does not change:
    latents of weights drawn at random teach nothing.
    """
    checkpoint, weights = _read(path, hints)
    if imae.HEADS[0] in weights:
        raise CheckpointError(f"--teacher {path} is an i-MAE: distillation needs a plain MAE")
    if pools(weights) and "norm.weight" not in weights:
        raise CheckpointError(
            f"--teacher {path} was fine-tuned on the mean of its patches and has no norm, which "
            "the latents of a teacher need: give the file that it was fine-tuned from"
        )
    shapes = shapes_of(weights)
    facts = facts_of(checkpoint, shapes, {"num_heads": num_heads}, name, hints)
    as_here = {**facts, "input_size": Fact(student.img_size, "flag")}
    if decoder_misfit(checkpoint, shapes, as_here, name, hints):
        unused = DECODER if student.head_space == "encoder" else _UNUSED_OF_TEACHER
        weights = {key: value for key, value in weights.items() if not key.startswith(unused)}
        as_here.pop("decoder_num_heads", None)
    students = {key: getattr(student, key) for key in ("img_size", "in_chans", "mean", "std")}
    arguments = model_arguments(checkpoint, shapes_of(weights), as_here, name, hints)
    teacher = build(arguments | students, path)
    teacher.facts = as_here
    optional = _UNUSED_OF_TEACHER
    if student.head_space == "encoder":
        optional += ("decoder_embed.",)
    _check_complete(teacher, weights, path, optional, hints)
    _load(teacher, weights, path, allow_partial, optional, hints)
    _compare_grids(path, facts, student, hints)
    tell(path, {"num_heads": facts["num_heads"]}, hints, decoder=False)
    _say_differences(f"--teacher {path}", {k: facts[k] for k in ("mean", "std")}, student)
    return teacher


def load_init(
    student: MaskedAutoencoder,
    path: Path,
    *,
    allow_partial: bool = False,
    hints: Hints = IN_PYTHON,
) -> None:
    """Start the student from a MAE; both heads of an i-MAE start as its `decoder_embed`.

    Heads in the encoder's width have no counterpart in a MAE and stay fresh. What the file says of
    attention heads, targets, mean and deviation is compared with the student's, and a line names
    what differs or is not told. Raises CheckpointError that lists missing and unexpected keys,
    where a file of ours has other attention heads, and where positions lie otherwise.
    """
    checkpoint, weights = _read(path, hints)
    facts = facts_of(checkpoint, shapes_of(weights), {}, None, hints)
    fresh: tuple[str, ...] = ()
    if student.heads == 2 and imae.HEADS[0] not in weights:
        if student.head_space == "encoder":
            fresh = ("decoder_embed1.", "decoder_embed2.")
        else:
            for kind in ("weight", "bias"):
                shared = weights.pop(f"decoder_embed.{kind}", None)
                if shared is not None:
                    weights[f"decoder_embed1.{kind}"] = weights[f"decoder_embed2.{kind}"] = shared
    odd = _odd_decoder(student, weights)
    if odd and allow_partial:
        log.warning("%s: its decoder is left out: %s has no place here", path, odd[0])
        weights = {key: value for key, value in weights.items() if not key.startswith(DECODER)}
    _load(student, weights, path, allow_partial, fresh, hints, _afresh(student, weights, hints))
    used = {key: fact for key, fact in facts.items() if _matters(key, shapes_of(weights))}
    _compare_heads(checkpoint, used, student, hints)
    _compare_grids(path, used, student, hints)
    _say_differences(f"--init {path}", used, student)
    _say_unknown(path, used, student, shapes_of(weights))


def _read(path: Path, hints: Hints) -> tuple[Checkpoint, dict[str, Tensor]]:
    checkpoint, ours = open_checkpoint(path, hints=hints)
    return checkpoint, without_classifier(ours.weights, path)


def _afresh(student: MaskedAutoencoder, weights: Mapping[str, Tensor], hints: Hints) -> str:
    """That a flag starts the decoder afresh, where that is all that has another size."""
    own = shapes_of(student.state_dict())
    odd = [key for key, shape in shapes_of(weights).items() if own.get(key, shape) != shape]
    decoder = odd and all(key.startswith(DECODER) for key in odd)
    return hints.if_any("allow_partial", "starts the decoder afresh") if decoder else ""


def _odd_decoder(student: MaskedAutoencoder, weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the file's decoder that have no place in the student's."""
    own, theirs = shapes_of(student.state_dict()), shapes_of(weights)
    return [k for k, shape in theirs.items() if k.startswith(DECODER) and own.get(k) != shape]


def _load(
    model: MaskedAutoencoder,
    weights: Mapping[str, Tensor],
    path: Path,
    allow_partial: bool,
    optional: tuple[str, ...],
    hints: Hints,
    cure: str = "",
) -> None:
    load_weights(
        model, weights, path, allow_partial=allow_partial, optional=optional,
        size_hint=hints.resize() + cure,
        partial_hint=hints.if_any("allow_partial", "loads it all the same"),
    )  # fmt: skip


def _matters(setting: str, shapes: Shapes) -> bool:
    """Whether a setting has a meaning for these weights: a decoder's heads need a decoder."""
    return setting not in HEADS or setting in widths(shapes)


def _compare_heads(
    checkpoint: Checkpoint, facts: Mapping[str, Fact], student: MaskedAutoencoder, hints: Hints
) -> None:
    """Weights under other heads compute something else: ours are refused, others warned of."""
    for setting, own in _settings(student).items():
        fact = facts.get(setting)
        if setting not in HEADS or fact is None or fact.source == "assumed" or fact.value == own:
            continue
        message = (
            f"{checkpoint.path} was trained with {setting} {fact.value}, this model has {own}: "
            f"{hints.to_set(setting)} {fact.value} makes them alike"
        )
        if checkpoint.ours:
            raise CheckpointError(message)
        log.warning(message)


def _check_complete(
    teacher: MaskedAutoencoder,
    weights: Mapping[str, Tensor],
    path: Path,
    optional: tuple[str, ...],
    hints: Hints,
) -> None:
    """Raise CheckpointError where a part that gives latents would be drawn at random."""
    missing = [n for n in teacher.state_dict() if n not in weights and not n.startswith(optional)]
    if not missing:
        return
    projection = all(name.startswith("decoder_embed.") for name in missing)
    cure = hints.if_any("head_space", "encoder compares latents before that") if projection else ""
    raise CheckpointError(
        f"{path} lacks what gives the latents of a teacher, missing keys: {listed(missing)}{cure}"
    )


def _compare_grids(
    path: Path, facts: Mapping[str, Fact], student: MaskedAutoencoder, hints: Hints
) -> None:
    """Raise CheckpointError where as many positions lie otherwise; a line where nobody tells."""
    fact, own = facts.get("input_size"), in_words(student.img_size)
    if fact and fact.value == student.img_size:
        return
    if fact is None or fact.source == "assumed":
        log.warning(
            "%s does not tell how its positions lie: taken as those of %s pixels, as this run's",
            path, own,
        )  # fmt: skip
        return
    size = in_words(fact.value)
    change = hints.if_any("input_size", f"{size} makes them alike")
    raise CheckpointError(
        f"{path} is of images of {size} pixels, this model of {own}: as many positions, which lie "
        f"otherwise{change}"
    )


def _say_differences(file: str, facts: Mapping[str, Fact], student: MaskedAutoencoder) -> None:
    """A line on what the file was trained with, heads aside, and this run is not."""
    own = _settings(student)
    said = [
        f"{setting} {fact.value}, this run has {own[setting]}"
        for setting, fact in facts.items()
        if setting not in FIXED and fact.source != "assumed" and fact.value != own[setting]
    ]
    if said:
        log.warning("%s was trained with %s", file, "; ".join(said))


def _say_unknown(
    path: Path, facts: Mapping[str, Fact], student: MaskedAutoencoder, shapes: Shapes
) -> None:
    """A line on what the file does not tell, and what this run takes it to be."""
    own = _settings(student)
    open_ = [
        f"{setting} {own[setting]}" for setting in own
        if _matters(setting, shapes)
        and (setting not in facts or facts[setting].source == "assumed")
    ]  # fmt: skip
    if open_:
        log.info("%s does not tell all of its settings; taken as this run's: %s",
                 path, ", ".join(open_))  # fmt: skip


def _settings(model: MaskedAutoencoder) -> dict[str, Any]:
    """What a model's shapes do not tell of it, by setting."""
    return {
        "num_heads": model.blocks[0].attn.num_heads,
        "decoder_num_heads": model.decoder_blocks[0].attn.num_heads,
        "norm_pix_loss": model.norm_pix_loss,
        "mean": model.mean,
        "std": model.std,
    }
