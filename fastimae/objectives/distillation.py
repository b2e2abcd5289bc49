"""Distillation from the latents of a frozen MAE: which student a teacher fits."""

from __future__ import annotations

from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError


def check_teacher(student: MaskedAutoencoder, teacher: MaskedAutoencoder) -> None:
    """Raise ConfigError unless the latents of both models can be compared."""
    if teacher.heads != 1:
        raise ConfigError("--teacher must be a plain MAE, not an i-MAE with two heads")
    space = student.head_space
    width = "pos_embed" if space == "encoder" else "mask_token"
    for name, of_student, of_teacher in (
        ("image size", student.img_size, teacher.img_size),
        ("patch size", student.patch_size, teacher.patch_size),
        ("number of channels", student.in_chans, teacher.in_chans),
        ("number of class tokens", student.class_tokens, teacher.class_tokens),
        (f"{space} width", getattr(student, width).shape[-1], getattr(teacher, width).shape[-1]),
    ):
        if of_student != of_teacher:
            raise ConfigError(
                f"--teacher has a different {name} ({of_teacher}) than --model ({of_student}): "
                "use a teacher that fits, or change --model, --input_size, --class_tokens or "
                "--head_space"
            )
