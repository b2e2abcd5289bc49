"""A user's objective in one file, an example and for tests: MAE with an EMA teacher.

B = batch, K = visible patches, N = 1 + K tokens, M = masked patches, V = values of a patch,
D = encoder width, E = decoder width. Beside MAE's loss, a predictor matches the latents of an
exponential moving average of the student.

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
from fastimae.objectives.settings import MaskSettings
from fastimae.settings import InnerShare


@dataclasses.dataclass(kw_only=True)
class SlowTeacherSettings(MaskSettings):
    """MAE's mask settings, and one more flag."""

    momentum: InnerShare = 0.996
    """Share of the teacher's weights that a step keeps."""


class SlowTeacher(Objective):
    """Reconstruct masked pixels, and predict the teacher's latents of the visible patches."""

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
        student, images = self.student, batch.images
        mask = random_masking(batch.key, student.grid, self.mask_ratio)
        (patches_BKV,) = student.visible_patches(images, mask)
        latent_BND = student.encode(patches_BKV, mask.ids_keep)
        (head_BNE,) = student.split(latent_BND)
        pred_BMV = student.decode(head_BNE, mask, masked_only=True)
        rows = torch.arange(len(images), device=images.device)
        pixels = student.reconstruction_loss(pred_BMV, images, rows, mask.ids_masked).sum()
        with torch.no_grad():
            target_BND = self.teacher.encode(patches_BKV, mask.ids_keep)
        slow = F.mse_loss(self.predictor(latent_BND).float(), target_BND.float())
        return {"loss": pixels + slow, "pixels": pixels, "slow": slow}

    def after_update(self):
        self.updates += 1
        for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.momentum)
