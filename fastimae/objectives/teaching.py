"""The frozen MAE whose latents an i-MAE is taught: its settings, and which student it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from fastimae.models import MaskedAutoencoder
from fastimae.settings import ConfigError, Idle, NotNegative, PositiveInt, Settings, flag


@dataclasses.dataclass(kw_only=True)
class TeacherSettings(Settings):
    """Who teaches, and how."""

    teacher: Annotated[Path | None, flag(aliases=["--teacher_path"])] = None
    """MAE checkpoint whose latents are distilled; without it there is no distillation."""
    teach_model: str | None = None
    """Name of the teacher's model. None: as its checkpoint says."""
    teach_num_heads: PositiveInt | None = None
    """Attention heads of the teacher's encoder. None: as its checkpoint says, else by its width."""
    distill_weight: NotNegative = 1.0
    """Weight of the distillation."""
    teacher_view: Literal["clean", "mixed"] = "clean"
    """What the teacher sees: each image alone (the paper) or the mixture (its released code)."""
    teacher_precision: Literal["auto", "fp8"] = "auto"
    """fp8: the teacher multiplies in 8 bits (torchao, GPUs from 8.9 on); its error is reported."""

    def idle(self) -> Iterator[Idle]:
        of_teacher = ("teach_model", "teach_num_heads", "teacher_view", "teacher_precision")
        yield Idle(not self.teacher, (*of_teacher, "distill_weight"), "without --teacher")
        yield from super().idle()


def check_teacher(student: MaskedAutoencoder, teacher: MaskedAutoencoder) -> None:
    """Raise ConfigError, unless the latents of both can be compared."""
    if teacher.heads != 1:
        raise ConfigError("--teacher must be a plain MAE, not an i-MAE with two heads")
    space = student.head_space
    width = "pos_embed" if space == "encoder" else "mask_token"
    for name, own, other in (
        ("image size", student.img_size, teacher.img_size),
        ("patch size", student.patch_size, teacher.patch_size),
        ("channels", student.in_chans, teacher.in_chans),
        (f"{space} width", getattr(student, width).shape[-1], getattr(teacher, width).shape[-1]),
    ):
        if own != other:
            raise ConfigError(
                f"--teacher has another {name} ({other}) than --model ({own}): "
                "use a teacher that fits, or change --model, --input_size or --head_space"
            )
