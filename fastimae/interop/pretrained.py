"""Pre-trained masked autoencoders as i-MAE's teacher, or as a student's first weights.

Reads what `fastimae.interop.load_model` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint import CheckpointError, listed, load_weights
from fastimae.interop import imae
from fastimae.interop.conversion import DECODER, shapes_of
from fastimae.interop.facts import HEADS, Fact, facts_of, tell
from fastimae.interop.finetuned import pools, without_classifier
from fastimae.interop.grids import in_words
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.load import build, decoder_misfit
from fastimae.interop.open import Checkpoint, open_checkpoint
from fastimae.interop.sizes import model_arguments
from fastimae.log import log
from fastimae.models import MaskedAutoencoder

# Parts of a teacher that give no latents of the decoder's width: files without them will do.
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
    checkpoint = without_classifier(open_checkpoint(path, hints=hints))
    file = hints.file("teacher", path)
    if imae.HEADS[0] in checkpoint.weights:
        raise CheckpointError(f"{file} is an i-MAE: distillation needs a plain MAE")
    if pools(checkpoint.weights) and "norm.weight" not in checkpoint.weights:
        raise CheckpointError(
            f"{file} was fine-tuned on the mean of its patches and has no norm, which the latents "
            "of a teacher need: give the file that it was fine-tuned from"
        )
    facts = facts_of(checkpoint, {"num_heads": num_heads}, name)
    as_here = {**facts, "input_size": Fact(student.img_size, "flag")}
    unused = DECODER if student.head_space == "encoder" else _UNUSED_OF_TEACHER
    if decoder_misfit(checkpoint, as_here, name):
        checkpoint = checkpoint.without(*unused)
        as_here.pop("decoder_num_heads", None)
    students = {key: getattr(student, key) for key in ("img_size", "in_chans", "mean", "std")}
    teacher = build(model_arguments(checkpoint, as_here, name) | students, path)
    teacher.facts = as_here
    _check_complete(teacher, checkpoint, unused)
    _load(teacher, checkpoint, allow_partial, unused)
    _compare_grids(checkpoint, facts, student)
    tell(checkpoint, {"num_heads": facts["num_heads"]}, decoder=False)
    _say_differences(file, _told(facts), {"mean": student.mean, "std": student.std})
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
    checkpoint = without_classifier(open_checkpoint(path, hints=hints))
    facts, weights = facts_of(checkpoint, {}, None), dict(checkpoint.weights)
    told = _told(facts)
    fresh: tuple[str, ...] = ()
    if student.heads == 2 and imae.HEADS[0] not in weights:
        if student.head_space == "encoder":
            fresh = ("decoder_embed1.", "decoder_embed2.")
        else:
            for kind in ("weight", "bias"):
                shared = weights.pop(f"decoder_embed.{kind}", None)
                if shared is not None:
                    weights[f"decoder_embed1.{kind}"] = weights[f"decoder_embed2.{kind}"] = shared
    checkpoint, own = checkpoint.holding(weights), shapes_of(student.state_dict())
    odd = [k for k, shape in checkpoint.shapes.items() if own.get(k) != shape]
    odd_decoder = [key for key in odd if key.startswith(DECODER)]
    cure = ""
    if all(key in odd_decoder for key in odd if key in own):  # nothing else has another size
        cure = hints.if_any("allow_partial", "starts the decoder afresh")
    if odd_decoder and allow_partial:
        log.warning("%s: its decoder is left out: %s has no place here", path, odd_decoder[0])
        checkpoint = checkpoint.without(*DECODER)
    _load(student, checkpoint, allow_partial, fresh, cure)
    own_settings = _settings(student, checkpoint)
    _compare_heads(checkpoint, told, own_settings)
    _compare_grids(checkpoint, facts, student)
    _say_differences(hints.file("init", path), told, own_settings)
    untold = [f"{name} {value}" for name, value in own_settings.items() if name not in told]
    if untold:
        log.info("%s does not tell all of its settings; taken as this run's: %s",
                 checkpoint.path, ", ".join(untold))  # fmt: skip


def _load(
    model: MaskedAutoencoder,
    checkpoint: Checkpoint,
    allow_partial: bool,
    optional: tuple[str, ...],
    cure: str = "",
) -> None:
    hints = checkpoint.hints
    load_weights(
        model, checkpoint.weights, checkpoint.path, allow_partial=allow_partial, optional=optional,
        size_hint=hints.resize() + cure,
        partial_hint=hints.if_any("allow_partial", "loads it all the same"),
    )  # fmt: skip


def _told(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """What somebody said, by setting."""
    return {setting: fact.value for setting, fact in facts.items() if fact.source != "assumed"}


def _compare_heads(checkpoint: Checkpoint, told: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Weights under other heads compute something else: ours are refused, others warned of."""
    for setting in HEADS:
        if setting not in told or setting not in own or told[setting] == own[setting]:
            continue
        message = (
            f"{checkpoint.path} was trained with {setting} {told[setting]}, this model has "
            f"{own[setting]}: {checkpoint.hints.to_set(setting)} {told[setting]} makes them alike"
        )
        if checkpoint.ours:
            raise CheckpointError(message)
        log.warning(message)


def _check_complete(
    teacher: MaskedAutoencoder, checkpoint: Checkpoint, optional: tuple[str, ...]
) -> None:
    """Raise CheckpointError where a part that gives latents would be drawn at random."""
    known = checkpoint.weights
    missing = [n for n in teacher.state_dict() if n not in known and not n.startswith(optional)]
    if not missing:
        return
    cure = ""
    if all(name.startswith("decoder_embed.") for name in missing):
        cure = checkpoint.hints.if_any("head_space", "encoder compares latents before that")
    raise CheckpointError(
        f"{checkpoint.path} lacks what gives the latents of a teacher, missing keys: "
        f"{listed(missing)}{cure}"
    )


def _compare_grids(
    checkpoint: Checkpoint, facts: Mapping[str, Fact], student: MaskedAutoencoder
) -> None:
    """Raise CheckpointError where as many positions lie otherwise; a line where nobody tells."""
    fact, own = facts.get("input_size"), in_words(student.img_size)
    if fact and fact.value == student.img_size:
        return
    if fact is None or fact.source == "assumed":
        log.warning(
            "%s does not tell how its positions lie: taken as those of %s pixels, as this run's",
            checkpoint.path, own,
        )  # fmt: skip
        return
    size = in_words(fact.value)
    change = checkpoint.hints.if_any("input_size", f"{size} makes them alike")
    raise CheckpointError(
        f"{checkpoint.path} is of images of {size} pixels, this model of {own}: as many "
        f"positions, which lie otherwise{change}"
    )


def _say_differences(file: str, told: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """A line on what the file was trained with, heads aside, and this run is not."""
    said = [
        f"{setting} {told[setting]}, this run has {value}"
        for setting, value in own.items()
        if setting not in HEADS and setting in told and told[setting] != value
    ]
    if said:
        log.warning("%s was trained with %s", file, "; ".join(said))


def _settings(model: MaskedAutoencoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a model's shapes do not tell of it, by setting; of attention heads, those that have a
    meaning for these weights: a decoder's need a decoder."""
    heads = {
        "num_heads": model.blocks[0].attn.num_heads,
        "decoder_num_heads": model.decoder_blocks[0].attn.num_heads,
    }
    return {name: value for name, value in heads.items() if name in checkpoint.widths} | {
        "norm_pix_loss": model.norm_pix_loss,
        "mean": model.mean,
        "std": model.std,
    }
