"""Pre-trained masked autoencoders as i-MAE's teacher (--teacher) or as initial weights (--init).

Reads what `fastimae.interop.load_model` reads.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from fastimae.engine.checkpoint import CheckpointError, listed, load_weights
from fastimae.interop import imae
from fastimae.interop.adapt import adapt, report_changes
from fastimae.interop.architecture import model_arguments
from fastimae.interop.compare_settings import (
    compare_heads,
    known_settings,
    report_images,
    settings_of_run,
    statistics,
    warn_of_differences,
)
from fastimae.interop.conversion import DECODER, shapes_of
from fastimae.interop.facts import Fact, determine_facts, report_assumptions
from fastimae.interop.finetuned import classifies_mean, without_classifier
from fastimae.interop.hints import IN_PYTHON, Hints
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
    """Load a MAE for the student's images and on its device, with the file's weights, see `adapt`.

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
    adapted = adapt(checkpoint, facts.get("input_size"), student.img_size, student.in_chans)
    checkpoint = adapted.checkpoint
    of_student = {"input_size": student.img_size, "mean": student.mean, "std": student.std}
    of_teacher = {**facts, **{name: Fact(value, "flag") for name, value in of_student.items()}}
    unused = DECODER if student.head_space == "encoder" else _UNUSED_BY_TEACHER
    if why_decoder_misfits(checkpoint, of_teacher, name):
        checkpoint = checkpoint.without(*unused)
        of_teacher.pop("decoder_num_heads", None)
    with student.pos_embed.device:
        teacher = build(model_arguments(checkpoint, of_teacher, name), path)
    teacher.facts = of_teacher
    _check_complete(teacher, checkpoint, unused)
    if teacher.weighted_feature_maps and student.head_space == "decoder":
        raise CheckpointError(
            f"{file} has weighted feature maps: each of its decoder's blocks has a latent of its "
            f"own{hints.suggest('head_space', 'encoder compares the encoder-wide one')}"
        )
    _load(teacher, checkpoint, allow_partial, unused)
    report_changes(checkpoint, adapted.changes)
    report_images(checkpoint, adapted.changes, facts, student)
    report_assumptions(checkpoint, {"num_heads": facts["num_heads"]}, decoder=False)
    warn_of_differences(file, known_settings(facts), statistics(student, adapted.changes))
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
    decoder takes the encoder only; a decoder that the file lacks, or that is another, stays fresh.
    Weights for images of another size or other channels are adapted: see `adapt`. Lines name all of
    that. The file's attention heads, targets, mean and deviation are compared with the student's;
    lines name differences and what is unknown. Raises CheckpointError with a list of the encoder's
    missing and unexpected keys, if it has other sizes or patches, or if our own file has other
    attention heads.
    """
    checkpoint = without_classifier(open_checkpoint(path, hints=hints))
    facts = determine_facts(checkpoint, {}, None)
    known = known_settings(facts)
    if not student.has_decoder:
        checkpoint = checkpoint.without(*DECODER)
    _compare_class_tokens(checkpoint, student)
    adapted = adapt(checkpoint, facts.get("input_size"), student.img_size, student.in_chans)
    checkpoint, fresh = _match_heads(adapted.checkpoint, student)
    fresh += adapted.fresh
    if why := _why_decoder_is_fresh(checkpoint, student, fresh):
        checkpoint, fresh = checkpoint.without(*DECODER), DECODER
    _load(student, checkpoint, allow_partial, fresh)
    report_changes(checkpoint, adapted.changes)
    report_images(checkpoint, adapted.changes, facts, student)
    if why:
        log.warning("%s: this run's decoder starts fresh: %s", path, why)
    student.adapted = {**adapted.changes, **({"decoder": f"fresh: {why}"} if why else {})}
    own_settings = settings_of_run(student, checkpoint, adapted.changes)
    compare_heads(checkpoint, known, own_settings)
    warn_of_differences(hints.with_flag("init", path), known, own_settings)
    unknown = [f"{name} {value}" for name, value in own_settings.items() if name not in known]
    if unknown:
        log.info("%s does not state all of its settings; assumed as this run's: %s",
                 checkpoint.path, ", ".join(unknown))  # fmt: skip


def _why_decoder_is_fresh(
    checkpoint: Checkpoint, student: MaskedAutoencoder, optional: tuple[str, ...]
) -> str:
    """Describe why the student's decoder takes nothing from the file; "" if it does, or is none."""
    own, theirs = (
        {name: shape for name, shape in shapes.items() if name.startswith(DECODER)}
        for shapes in (shapes_of(student.state_dict()), checkpoint.shapes)
    )
    if own and not theirs:
        return "the file has none"
    missing = (n for n in own if n not in theirs and not n.startswith(optional or ("\0",)))
    misfits = (name for name, shape in theirs.items() if own.get(name) != shape)
    name = next(itertools.chain(missing, misfits), "")
    return name and f"{name} of the file's {'does not fit' if name in theirs else 'is missing'}"


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
) -> None:
    hints = checkpoint.hints
    load_weights(
        model, checkpoint.weights, checkpoint.path, allow_partial=allow_partial, optional=optional,
        size_hint=hints.to_resize(),
        partial_hint=hints.suggest("allow_partial", "loads it anyway"),
    )  # fmt: skip


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
