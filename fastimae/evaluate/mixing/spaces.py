"""The space in which separability compares latents, and which models have latents in it.

Encoder space: of the encoder's width, before `decoder_embed`. Decoder space: behind it. An i-MAE
whose heads map to the decoder's width at once has no latents in encoder space, and a MAE with
weighted feature maps none in decoder space; every other model has latents in both.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastimae.evaluate.candidates import Candidate
from fastimae.models import MaskedAutoencoder
from fastimae.models.settings import HeadSpace
from fastimae.settings import ConfigError, lacks_heads


def check_space(
    candidates: Sequence[Candidate], teacher: MaskedAutoencoder, space: HeadSpace
) -> None:
    """Raise ConfigError unless all models' latents can be compared with the teacher's in a space.

    The teacher's are the targets of all rows. It must be a MAE, which learned from single images.
    """
    if teacher.heads != 1 or lacks_heads(teacher.args):
        raise ConfigError("--teacher must be a plain MAE, not an i-MAE")
    models = {"--teacher": teacher} | {str(each.path): each.model for each in candidates}
    weighted = [name for name, model in models.items() if model.weighted_feature_maps]
    if space == "decoder" and weighted:
        raise ConfigError(
            f"{weighted[0]} has weighted feature maps, and no latent in decoder space: use --space "
            "encoder, or leave the file out"
        )
    for candidate in candidates:
        if space == "encoder" and not has_encoder_space(candidate.model):
            raise ConfigError(
                f"{candidate.path} has heads in decoder space, and none in encoder space: use "
                "--space decoder, or leave the file out"
            )
        _check_fits(candidate, teacher, space)


def has_encoder_space(model: MaskedAutoencoder) -> bool:
    """Return whether a model has latents of single images in the encoder's width."""
    return model.heads == 1 or model.head_space == "encoder"


def width_in(model: MaskedAutoencoder, space: HeadSpace) -> int:
    """Return the width of a model's latents in a space."""
    return (model.pos_embed if space == "encoder" else model.mask_token).shape[-1]


def _check_fits(candidate: Candidate, teacher: MaskedAutoencoder, space: HeadSpace) -> None:
    model = candidate.model
    for what, own, of_teacher in (
        ("image size", model.img_size, teacher.img_size),
        ("patch size", model.patch_size, teacher.patch_size),
        ("number of channels", model.in_chans, teacher.in_chans),
        (f"width in {space} space", width_in(model, space), width_in(teacher, space)),
    ):
        if own != of_teacher:
            raise ConfigError(
                f"--teacher has another {what} ({of_teacher}) than {candidate.path} ({own}): "
                "there is no distance between their latents"
            )
