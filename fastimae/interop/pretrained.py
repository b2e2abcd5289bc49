"""Pre-trained masked autoencoders as i-MAE's teacher (--teacher) or as initial weights (--init).

Reads what `fastimae.interop.load_model` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastimae.engine.checkpoint import CheckpointError, listed, load_weights
from fastimae.interop import imae
from fastimae.interop.architecture import model_arguments
from fastimae.interop.conversion import DECODER, shapes_of
from fastimae.interop.facts import HEADS, Fact, determine_facts, report_assumptions
from fastimae.interop.finetuned import classifies_mean, without_classifier
from fastimae.interop.hints import IN_PYTHON, Hints
from fastimae.interop.image_size import size_text
from fastimae.interop.load import build, why_decoder_misfits
from fastimae.interop.open_checkpoint import Checkpoint, open_checkpoint
from fastimae.log import log
from fastimae.models import MaskedAutoencoder
from fastimae.settings import lacks_heads

# Parts that a teacher's latents (in the decoder's width) do not need: files may lack them.
_UNUSED_BY_TEACHER = (
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
    """Load a MAE for the student's image size and on its device, with the file's weights.

    name: of the teacher's model (--teach_model); num_heads: of its encoder (--teach_num_heads);
    by default, both are the file's. Images are normalised as for the student: a line is logged if
    the file was trained with another mean or deviation. Raises CheckpointError if the file holds no
    such MAE, or lacks a part that the latents need. allow_partial does not change the latter:
    randomly initialised latents teach nothing.
    """
    checkpoint = without_classifier(open_checkpoint(path, hints=hints))
    file = hints.with_flag("teacher", path)
    if imae.HEADS[0] in checkpoint.weights or lacks_heads(checkpoint.args):
        raise CheckpointError(f"{file} is an i-MAE: distillation needs a plain MAE")
    if classifies_mean(checkpoint.weights) and "norm.weight" not in checkpoint.weights:
        raise CheckpointError(
            f"{file} was fine-tuned on the mean of its patches and has no norm, which the latents "
            "of a teacher need: give the file that it was fine-tuned from"
        )
    facts = determine_facts(checkpoint, {"num_heads": num_heads}, name)
    adapted = {**facts, "input_size": Fact(student.img_size, "flag")}
    unused = DECODER if student.head_space == "encoder" else _UNUSED_BY_TEACHER
    if why_decoder_misfits(checkpoint, adapted, name):
        checkpoint = checkpoint.without(*unused)
        adapted.pop("decoder_num_heads", None)
    overrides = {key: getattr(student, key) for key in ("img_size", "in_chans", "mean", "std")}
    with student.pos_embed.device:
        teacher = build(model_arguments(checkpoint, adapted, name) | overrides, path)
    teacher.facts = adapted
    _check_complete(teacher, checkpoint, unused)
    _load(teacher, checkpoint, allow_partial, unused)
    _compare_grids(checkpoint, facts, student)
    report_assumptions(checkpoint, {"num_heads": facts["num_heads"]}, decoder=False)
    _warn_of_differences(file, _known_settings(facts), {"mean": student.mean, "std": student.std})
    return teacher


def load_init(
    student: MaskedAutoencoder,
    path: Path,
    *,
    allow_partial: bool = False,
    hints: Hints = IN_PYTHON,
) -> None:
    """Initialise the student from a MAE; both heads of an i-MAE start as its `decoder_embed`.

    Heads in the encoder's width have no counterpart in a MAE and stay fresh. A student without a
    decoder takes the encoder only. The file's attention heads, targets, mean and deviation are
    compared with the student's; lines name differences and what is unknown. Raises CheckpointError
    with a list of missing and unexpected keys, if our own file has other attention heads, or if
    positions have another arrangement.
    """
    checkpoint = without_classifier(open_checkpoint(path, hints=hints))
    facts = determine_facts(checkpoint, {}, None)
    known = _known_settings(facts)
    if not student.has_decoder:
        checkpoint = checkpoint.without(*DECODER)
    _compare_class_tokens(checkpoint, student)
    checkpoint, fresh = _match_heads(checkpoint, student)
    own_shapes = shapes_of(student.state_dict())
    misfits = [k for k, shape in checkpoint.shapes.items() if own_shapes.get(k) != shape]
    decoder_misfits = [key for key in misfits if key.startswith(DECODER)]
    suggestion = ""
    if all(key in decoder_misfits for key in misfits if key in own_shapes):  # the encoder fits
        suggestion = hints.suggest("allow_partial", "starts with a fresh decoder")
    if decoder_misfits and allow_partial:
        log.warning("%s: its decoder is dropped: %s does not fit", path, decoder_misfits[0])
        checkpoint = checkpoint.without(*DECODER)
    _load(student, checkpoint, allow_partial, fresh, suggestion)
    own_settings = _settings(student, checkpoint)
    _compare_heads(checkpoint, known, own_settings)
    _compare_grids(checkpoint, facts, student)
    _warn_of_differences(hints.with_flag("init", path), known, own_settings)
    unknown = [f"{name} {value}" for name, value in own_settings.items() if name not in known]
    if unknown:
        log.info("%s does not state all of its settings; assumed as this run's: %s",
                 checkpoint.path, ", ".join(unknown))  # fmt: skip


def _match_heads(
    checkpoint: Checkpoint, student: MaskedAutoencoder
) -> tuple[Checkpoint, tuple[str, ...]]:
    """Copy `decoder_embed` to an i-MAE's heads; also return prefixes that may stay fresh."""
    if student.heads != 2 or imae.HEADS[0] in checkpoint.weights:
        return checkpoint, ()
    if student.head_space == "encoder":
        return checkpoint, ("decoder_embed1.", "decoder_embed2.")
    weights = dict(checkpoint.weights)
    for kind in ("weight", "bias"):
        shared = weights.pop(f"decoder_embed.{kind}", None)
        if shared is not None:
            weights[f"decoder_embed1.{kind}"] = weights[f"decoder_embed2.{kind}"] = shared
    return checkpoint.with_weights(weights), ()


def _load(
    model: MaskedAutoencoder,
    checkpoint: Checkpoint,
    allow_partial: bool,
    optional: tuple[str, ...],
    suggestion: str = "",
) -> None:
    hints = checkpoint.hints
    load_weights(
        model, checkpoint.weights, checkpoint.path, allow_partial=allow_partial, optional=optional,
        size_hint=hints.to_resize() + suggestion,
        partial_hint=hints.suggest("allow_partial", "loads it anyway"),
    )  # fmt: skip


def _known_settings(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Return the settings that are not merely assumed."""
    return {setting: fact.value for setting, fact in facts.items() if fact.source != "assumed"}


def _compare_heads(
    checkpoint: Checkpoint, known: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Compare attention heads, as weights compute something else with others.

    A difference is an error for our own files, whose heads are certain, and a warning for others.
    """
    for setting in HEADS:
        if setting not in known or setting not in own or known[setting] == own[setting]:
            continue
        message = (
            f"{checkpoint.path} was trained with {setting} {known[setting]}, this model has "
            f"{own[setting]}: {checkpoint.hints.to_set(setting)} {known[setting]} makes them equal"
        )
        if checkpoint.ours:
            raise CheckpointError(message)
        log.warning(message)


def _compare_class_tokens(checkpoint: Checkpoint, student: MaskedAutoencoder) -> None:
    theirs = checkpoint.shapes["cls_token"][1]
    if theirs != student.class_tokens:
        raise CheckpointError(
            f"{checkpoint.path} has {theirs} class token{'s' * (theirs > 1)}, this model has "
            f"{student.class_tokens}: {checkpoint.hints.to_set('class_tokens')} {theirs} makes "
            "them equal"
        )


def _check_complete(
    teacher: MaskedAutoencoder, checkpoint: Checkpoint, optional: tuple[str, ...]
) -> None:
    """Raise CheckpointError if a part that latents need would be initialised at random."""
    known = checkpoint.weights
    missing = [n for n in teacher.state_dict() if n not in known and not n.startswith(optional)]
    if not missing:
        return
    suggestion = ""
    if all(name.startswith("decoder_embed.") for name in missing):
        suggestion = checkpoint.hints.suggest("head_space", "encoder compares latents before it")
    raise CheckpointError(
        f"{checkpoint.path} lacks parts that the latents of a teacher need, missing keys: "
        f"{listed(missing)}{suggestion}"
    )


def _compare_grids(
    checkpoint: Checkpoint, facts: Mapping[str, Fact], student: MaskedAutoencoder
) -> None:
    """Raise CheckpointError for another arrangement of the positions; warn if it is unknown."""
    fact, own = facts.get("input_size"), size_text(student.img_size)
    if fact and fact.value == student.img_size:
        return
    if fact is None or fact.source == "assumed":
        log.warning(
            "%s does not state the arrangement of its positions: assumed as this run's, %s pixels",
            checkpoint.path, own,
        )  # fmt: skip
        return
    size = size_text(fact.value)
    suggestion = checkpoint.hints.suggest("input_size", f"{size} makes them equal")
    raise CheckpointError(
        f"{checkpoint.path} is for images of {size} pixels, this model for {own}: the number of "
        f"positions is the same, their arrangement is not{suggestion}"
    )


def _warn_of_differences(file: str, known: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Log the settings, except for heads, in which the file's training differs from this run."""
    differences = [
        f"{setting} {known[setting]}, this run has {value}"
        for setting, value in own.items()
        if setting not in HEADS and setting in known and known[setting] != value
    ]
    if differences:
        log.warning("%s was trained with %s", file, "; ".join(differences))


def _settings(model: MaskedAutoencoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the model's settings that its shapes do not determine.

    A decoder's heads are included only if the checkpoint has a decoder.
    """
    heads, rest = {"num_heads": model.blocks[0].attn.num_heads}, {}
    if model.has_decoder:
        heads["decoder_num_heads"] = model.decoder_blocks[0].attn.num_heads
        rest["norm_pix_loss"] = model.norm_pix_loss
    known = {name: value for name, value in heads.items() if name in checkpoint.widths}
    return known | rest | {"mean": model.mean, "std": model.std}
