"""What a pre-trained file says of its training, compared with the run that starts from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.adapt import FIRST_LAYER
from fastimae.interop.facts import HEADS, Fact
from fastimae.interop.image_size import in_words
from fastimae.interop.open_checkpoint import Checkpoint
from fastimae.log import log
from fastimae.models import MaskedAutoencoder


def known_settings(facts: Mapping[str, Fact]) -> dict[str, Any]:
    """Return the settings that are not merely assumed."""
    return {setting: fact.value for setting, fact in facts.items() if fact.source != "assumed"}


def settings_of_run(
    model: MaskedAutoencoder, checkpoint: Checkpoint, changes: Mapping[str, str]
) -> dict[str, Any]:
    """Return the model's settings that its shapes do not determine.

    Those of a decoder are included only if the checkpoint has one.
    """
    settings = {"num_heads": model.blocks[0].attn.num_heads}
    if "decoder_num_heads" in checkpoint.widths:
        settings["decoder_num_heads"] = model.decoder_blocks[0].attn.num_heads
        settings["norm_pix_loss"] = model.norm_pix_loss
    return settings | statistics(model, changes)


def statistics(model: MaskedAutoencoder, changes: Mapping[str, str]) -> dict[str, Any]:
    """Return mean and deviation; {} if the file's are of other channels."""
    return {} if FIRST_LAYER in changes else {"mean": model.mean, "std": model.std}


def compare_heads(checkpoint: Checkpoint, known: Mapping[str, Any], own: Mapping[str, Any]) -> None:
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


def warn_of_differences(file: str, known: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Log the settings, except for heads, in which the file's training differs from this run."""
    differences = [
        f"{setting} {known[setting]}, this run has {value}"
        for setting, value in own.items()
        if setting not in HEADS and setting in known and known[setting] != value
    ]
    if differences:
        log.warning("%s was trained with %s", file, "; ".join(differences))


def report_images(
    checkpoint: Checkpoint,
    changes: Mapping[str, str],
    facts: Mapping[str, Fact],
    student: MaskedAutoencoder,
) -> None:
    """Log how images of other channels are normalised, and positions of unknown arrangement."""
    if FIRST_LAYER in changes:
        log.info("images are normalised by this run's mean %s and deviation %s",
                 student.mean, student.std)  # fmt: skip
    size, own = facts.get("input_size"), student.img_size
    known = size and (size.source != "assumed" or size.value == own)
    if not known and "pos_embed" not in changes:
        log.warning(
            "%s does not state the arrangement of its positions: assumed as this run's, %s pixels",
            checkpoint.path, in_words(own),
        )  # fmt: skip
