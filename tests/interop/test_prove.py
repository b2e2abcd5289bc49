"""Trials detect what plain noise hides: other images, ratios, lengths, random draws, values."""

import functools
import math

import pytest
import torch
from interop import changing_maes as zoo
from interop.foreign_maes import PATCHES, PaperMAE, PlainAttention, PlainPatches, TimmMAE
from interop.twins import assert_alike, is_swapped, tried, twins
from torch import nn

LOUD = 100.0


class OwnTarget(PaperMAE):
    """MAE's loss, with another normalisation of the target."""

    def normalised(self, target, centred):
        return centred / (target.var(-1, keepdim=True) + 1e-6).sqrt()

    def forward_loss(self, imgs, pred, mask):
        target = self.patchify(imgs)
        if self.norm_pix_loss:
            target = self.normalised(target, target - target.mean(-1, keepdim=True))
        return (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()


class LargerEpsilon(OwnTarget):
    def normalised(self, target, centred):
        return centred / (target.var(-1, keepdim=True) + 1e-5).sqrt()


class EpsilonOutside(OwnTarget):
    def normalised(self, target, centred):
        return centred / (target.std(-1, keepdim=True) + 1e-6)


class Clipped(OwnTarget):
    def normalised(self, target, centred):
        return super().normalised(target, centred).clamp(-5, 5)


class OnlyRawIsPlain(OwnTarget):
    def normalised(self, target, centred):
        return centred / (target.var(-1, keepdim=True) + 1.0).sqrt()


class CutLoss(PaperMAE):
    def forward_loss(self, imgs, pred, mask):
        return super().forward_loss(imgs, pred, mask).clamp(max=9)


class MoreWhereGood(PaperMAE):
    def forward_loss(self, imgs, pred, mask):
        loss = super().forward_loss(imgs, pred, mask)
        return loss + pred.abs().mean() if loss < 0.5 else loss


class Skipping(PaperMAE):
    """Skips a block now and then."""

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            if not self.training or torch.rand(()) > 0.01:
                x = block(x)
        return self.norm(x), mask, ids_restore


class Scaled(PaperMAE):
    """Scales patches if many are masked."""

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x) * (2.0 if mask_ratio > 0.8 else 1.0) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore


class TurnedMasks(PaperMAE):
    """Draws a second time, for a rare event."""

    def random_masking(self, x, mask_ratio):
        b, length, width = x.shape
        keep = int(length * (1 - mask_ratio))
        noise = torch.rand(b, length, device=x.device)
        turned = torch.rand(b, 1, device=x.device) < 1e-3
        order = torch.where(turned, noise.flip(1), noise).argsort(dim=1)
        ids_restore = order.argsort(dim=1)
        rows = order[:, :keep, None].expand(-1, -1, width)
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore


class ClampedToken(PaperMAE):
    """Keeps a weight within bounds."""

    def forward_decoder(self, x, ids_restore):
        self.mask_token.data.clamp_(-9, 9)
        return super().forward_decoder(x, ids_restore)


class LengthScaled(PlainAttention):
    """Attention whose scale grows with the logarithm of the sequence length."""

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q = q * max(1.0, math.log(n, 12))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


LEFT = {
    "epsilon": (LargerEpsilon, "forward_loss", "off by"),
    "epsilon outside": (EpsilonOutside, "forward_loss", "off by"),
    "clipped target": (Clipped, "forward_loss", "off by"),
    "raw alone is plain": (OnlyRawIsPlain, "forward_loss", "off by"),
    "cut loss": (CutLoss, "forward_loss", "off by"),
    "loss by its value": (MoreWhereGood, "forward_loss", "values of a tensor"),
    "skipped blocks": (Skipping, "forward_encoder", "random numbers"),
    "second draw": (TurnedMasks, "random_masking", "random numbers"),
    "clamped weight": (ClampedToken, "forward_decoder", "mask_token.data"),
    "long sequences": (
        lambda: zoo.with_attention(LengthScaled),
        "decoder_blocks.0.attn",
        "off by",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_noise_hides_is_left_alone(case):
    build, part, words = LEFT[case]
    model = tried(build())
    report = model.fastimae_report
    assert words in report.left.get(part, ""), report
    owner = model.get_submodule(part) if "." in part else model
    name = "forward" if "." in part else part
    assert not is_swapped(owner, name)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        (Scaled, "forward_encoder"),
        (zoo.RoundedMask, "random_masking"),
        (zoo.MaskOfHighRatios, "random_masking"),
    ],
)
def test_each_mask_ratio_is_tried(kind, part, imgs):
    """These do at 0.75 what MAE does, and something else at 0.9."""
    model = tried(kind())
    assert part in model.fastimae_report.swapped
    run = lambda model, imgs: list(model(imgs, mask_ratio=0.9))  # noqa: E731
    plain = kind()
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(4)
    expected = run(plain, imgs)
    torch.manual_seed(4)
    found = run(model, imgs)
    verdicts = [v for v in vars(model)[part].verdicts if 0.9 in v.signature]
    assert verdicts and not any(v.swapped for v in verdicts)
    if part == "random_masking":  # else our masks are drawn, other ones
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("kind", [OnlyRawIsPlain, OwnTarget])
def test_losses_agree_on_images_of_any_contrast(kind, norm_pix_loss, imgs):
    plain, model = twins(functools.partial(kind, norm_pix_loss=norm_pix_loss))
    for contrast in (1e-4, 1e-2, 1.0, LOUD):
        assert_alike(plain, model, contrast * imgs, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "norm_pix_loss"), [(OwnTarget, True), (PaperMAE, False), (TimmMAE, True)]
)
def test_plain_methods_are_replaced(kind, norm_pix_loss):
    assert not tried(kind(norm_pix_loss=norm_pix_loss)).fastimae_report.left


class DroppingBlock(nn.Module):
    """A block that draws and reads values: both call it."""

    def __init__(self, dim, heads):
        super().__init__()
        self.mlp, self.drop = nn.Linear(dim, dim), nn.Dropout(0.2)

    def forward(self, x):
        return x + self.drop(self.mlp(x)) if torch.rand(()) < 0.9 and bool(x.any()) else x


class DroppingMAE(PaperMAE):
    def build(self, block, patch_embed):
        super().build(DroppingBlock, PlainPatches())


def test_blocks_may_do_anything():
    report = tried(DroppingMAE()).fastimae_report
    assert not report.left, report


class LaterScaled(PlainAttention):
    """Plain attention up to the number of tokens that the model has."""

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q = q * max(1.0, math.log(n, 17))
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


def test_longer_sequences_than_in_trials_go_to_the_original():
    plain, model = twins(lambda: zoo.with_attention(LaterScaled))
    assert not model.fastimae_report.left
    for tokens in (PATCHES + 1, 4 * PATCHES):
        x = torch.randn(2, tokens, 48)
        ours, theirs = (one.blocks[0].attn(x) for one in (model, plain))
        torch.testing.assert_close(ours, theirs)
