"""Masked autoencoders that do what MAE does, until something is switched on."""

import functools
import types

import torch
from interop.foreign_maes import PaperMAE, PlainAttention, PlainPatches
from torch import nn

SHARED = {"weight": 0.0}
OPTIONS = types.SimpleNamespace(weight=0.0)
WEIGHT = 0.0
EPOCH = 0


def extra(pred):
    """Compute a further term of a loss."""
    return pred.abs().mean()


def weighted(pred):
    return WEIGHT * extra(pred)


class RampedLoss(PaperMAE):
    weight = 0.0

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + self.weight * extra(pred)


class RampedInHelper(PaperMAE):
    weight = 0.0

    def more(self, pred):
        return self.weight * extra(pred)

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + self.more(pred)


class RampedInComprehension(PaperMAE):
    weight = 0.0

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + sum(self.weight * extra(p) for p in pred)


class RampedBuffer(PaperMAE):
    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(()))

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + self.weight * extra(pred)


class RampedByName(PaperMAE):
    weight = 0.0

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + getattr(self, "weight") * extra(pred)  # noqa: B009


class RampedInDict(PaperMAE):
    weight = 0.0

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + self.__dict__.get("weight", 0) * extra(pred)


class RampedInClass(PaperMAE):
    weight = 0.0

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + type(self).weight * extra(pred)


class RampedShared(PaperMAE):
    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + SHARED["weight"] * extra(pred)


class RampedOptions(PaperMAE):
    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + OPTIONS.weight * extra(pred)


class RampedGlobal(PaperMAE):
    """A global of the module, constant until someone sets it."""

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + weighted(pred)


class RampedDefault(PaperMAE):
    def forward_loss(self, imgs, pred, mask, state={"weight": 0.0}):  # noqa: B006
        return super().forward_loss(imgs, pred, mask) + state["weight"] * extra(pred)


def ramped(method):
    """Decorate a loss with a weight that the decorator holds."""

    @functools.wraps(method)
    def wrapper(self, imgs, pred, mask):
        return method(self, imgs, pred, mask) + wrapper.weight * extra(pred)

    wrapper.weight = 0.0
    return wrapper


class RampedDecorator(PaperMAE):
    forward_loss = ramped(PaperMAE.forward_loss)


class RampedProperty(PaperMAE):
    def __init__(self):
        super().__init__()
        self.epoch = 0

    @property
    def patch_size(self):
        return self.epoch

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask) + self.patch_size * extra(pred)


class RampedByHand(PaperMAE):
    """Attributes that nn.Module does not have."""

    def __getattr__(self, name):
        return SHARED[name] if name == "scale" else super().__getattr__(name)

    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask)


class AllReducedLoss(PaperMAE):
    def forward_loss(self, imgs, pred, mask):
        loss = super().forward_loss(imgs, pred, mask)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(loss)
        return loss


class CountingLoss(PaperMAE):
    calls = 0

    def forward_loss(self, imgs, pred, mask):
        self.calls += 1
        return super().forward_loss(imgs, pred, mask)


class CurriculumMask(PaperMAE):
    epoch = 0

    def random_masking(self, x, mask_ratio):
        return super().random_masking(x, mask_ratio if self.epoch < 3 else mask_ratio / 2)


class CurriculumGlobal(PaperMAE):
    def random_masking(self, x, mask_ratio):
        return super().random_masking(x, mask_ratio if EPOCH < 3 else mask_ratio / 2)


class RoundedMask(PaperMAE):
    """Keeps as many patches as MAE for some ratios, one more for others."""

    def random_masking(self, x, mask_ratio):
        keep = round(x.shape[1] * (1 - mask_ratio))
        return super().random_masking(x, 1 - (keep + 1e-6) / x.shape[1])


class MaskOfHighRatios(PaperMAE):
    """A curriculum that depends on the mask ratio."""

    def random_masking(self, x, mask_ratio):
        return super().random_masking(x.flip(1) if mask_ratio > 0.8 else x, mask_ratio)


class FixedInEvaluation(PaperMAE):
    def random_masking(self, x, mask_ratio):
        if self.training:
            return super().random_masking(x, mask_ratio)
        return super().random_masking(x.flip(1), mask_ratio)


class SkippedBlocks(PaperMAE):
    """Layers that can be skipped."""

    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.skip = False

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = x if block.skip else block(x)
        return self.norm(x), mask, ids_restore


class NoisyDecoder(PaperMAE):
    noise = 0.0

    def forward_decoder(self, x, ids_restore):
        return super().forward_decoder(x * (1 + self.noise), ids_restore)


class SoftAttention(PlainAttention):
    temperature = 1.0

    def forward(self, x):
        return super().forward(x / self.temperature)


class KeepingAttention(PlainAttention):
    """Keeps its attention maps for later."""

    def forward(self, x):
        self.seen = x.detach()
        return super().forward(x)


class DroppingPatches(PlainPatches):
    drop = 0.0

    def forward(self, imgs):
        return nn.functional.dropout(super().forward(imgs), self.drop)


class LowRank(nn.Conv2d):
    """A convolution with a term of low rank, zero at first."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.more = nn.Parameter(torch.zeros(()))

    def forward(self, imgs):
        return super().forward(imgs) * (1 + self.more)


class LowRankPatches(PlainPatches):
    def __init__(self):
        super().__init__()
        old = self.proj
        self.proj = LowRank(old.in_channels, old.out_channels, old.kernel_size, old.stride)


def with_attention(kind):
    return PaperMAE(attention=kind)


def with_patches(kind):
    model = PaperMAE()
    model.patch_embed = kind()
    return model


class OneSequence(PaperMAE):
    """Blocks in an nn.Sequential, called together."""

    def build(self, block, patch_embed):
        super().build(block, patch_embed)
        self.blocks = nn.Sequential(*self.blocks)

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([first, x], 1))), mask, ids_restore
