"""Pre-trained masked autoencoders as i-MAE's teacher, or as a student's first weights.

Reads what `fastimae.interop.load_model` reads.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fastimae.engine.checkpoint import CheckpointError, load_weights
from fastimae.interop import imae
from fastimae.interop.files import Checkpoint, read, say_licence
from fastimae.interop.load import our_weights
from fastimae.interop.sizes import model_arguments
from fastimae.models import MaskedAutoencoder

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
    allow_partial: bool = False,
) -> MaskedAutoencoder:
    """A MAE for the student's image size, with the file's weights.

    name: of the teacher's model (--teach_model); read from the file where not given. Raises
    CheckpointError where the file does not hold such a MAE or lacks what gives latents.
    """
    checkpoint, weights = _read(path)
    if imae.HEADS[0] in weights:
        raise CheckpointError(f"--teacher {path} is an i-MAE: distillation needs a plain MAE")
    teacher = MaskedAutoencoder(
        **model_arguments(checkpoint, weights, name, "--teach_model")
        | {name: getattr(student, name) for name in ("img_size", "in_chans", "mean", "std")}
    )
    optional = _UNUSED_OF_TEACHER
    if student.head_space == "encoder":
        optional += ("decoder_embed.",)
    load_weights(teacher, weights, path, allow_partial=allow_partial, optional=optional)
    return teacher


def load_init(student: MaskedAutoencoder, path: Path, *, allow_partial: bool = False) -> None:
    """Start the student from a MAE; both heads of an i-MAE start as its `decoder_embed`.

    Heads in the encoder's width have no counterpart in a MAE and stay fresh. Raises
    CheckpointError that lists missing and unexpected keys.
    """
    _, weights = _read(path)
    fresh: tuple[str, ...] = ()
    if student.heads == 2 and imae.HEADS[0] not in weights:
        if student.head_space == "encoder":
            fresh = ("decoder_embed1.", "decoder_embed2.")
        else:
            for kind in ("weight", "bias"):
                shared = weights.pop(f"decoder_embed.{kind}", None)
                if shared is not None:
                    weights[f"decoder_embed1.{kind}"] = weights[f"decoder_embed2.{kind}"] = shared
    load_weights(student, weights, path, allow_partial=allow_partial, optional=fresh)


def _read(path: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    checkpoint = read(path)
    say_licence(checkpoint)
    return checkpoint, dict(our_weights(checkpoint).weights)
