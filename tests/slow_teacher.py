"""An objective of a user's own, in one file, for tests and as an example: MAE, and a predictor of
what a slow mean of the student (an EMA) says of the patches that are hidden from it.

    fastimae-train --objective slow_teacher:SlowTeacher --momentum 0.99 --ffcv imagenet.beton
"""

import copy
import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from fastimae.kernels import random_masking
from fastimae.objectives import Objective
from fastimae.objectives.base import Teacher
from fastimae.objectives.mae import MaskSettings
from fastimae.settings import InnerShare


@dataclasses.dataclass(kw_only=True)
class SlowTeacherSettings(MaskSettings):
    """--mask_ratio as MAE has it, and a flag of its own."""

    momentum: InnerShare = 0.996
    """Share of the teacher that stays as it is in a step."""


class SlowTeacher(Objective):
    """Pixels, and the teacher's latents, of an image that the student sees little of."""

    Settings, title = SlowTeacherSettings, "Slow teacher"

    def __init__(self, student, *, mask_ratio, mask_patch_size, momentum):
        super().__init__()
        self.student, self.mask_ratio, self.momentum = student, mask_ratio, momentum
        width = student.cls_token.shape[-1]
        self.predictor = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.teacher = copy.deepcopy(student).requires_grad_(False)
        self.register_buffer("updates", torch.zeros(()))

    def trainable(self):
        return {"student": self.student, "predictor": self.predictor}

    def teachers(self):
        return {"teacher": Teacher(module=self.teacher, moves=True)}

    def forward(self, batch):
        student, own = self.student, torch.arange(len(batch.images), device=batch.images.device)
        mask = random_masking(batch.key, student.grid, self.mask_ratio)
        (patches,) = student.visible_patches(batch.images, mask)
        latent = student.encode(patches, mask.ids_keep)
        pred = student.decode(student.split(latent)[0], mask, masked_only=True)
        pixels = student.reconstruction_loss(pred, batch.images, own, mask.ids_masked).sum()
        with torch.no_grad():
            target = self.teacher.encode(patches, mask.ids_keep)
        slow = F.mse_loss(self.predictor(latent).float(), target.float())
        return {"loss": pixels + slow, "pixels": pixels, "slow": slow}

    def after_update(self):
        self.updates += 1
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.momentum)
