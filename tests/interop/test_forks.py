"""Habits of forks: each is swapped and equal, or left with a reason.

Other names, several class tokens, squares of patches masked as a whole, more inputs and channels.
"""

import pytest
import torch
from interop.foreign_maes import DECODER, PATCH, SIZE, WIDTH, PaperMAE, PlainBlock, PlainPatches
from interop.twins import ATTENTION, assert_alike, step, tried, twins
from torch import nn

import fastimae
from fastimae.foreign_models.mae_proofs import recorded_masks


class OtherNames(nn.Module):
    """MAE's methods as `encode`, `decode`, `loss`, `mask_patches`, and the ratio as `keep_out`."""

    build, patchify = PaperMAE.build, PaperMAE.patchify
    mask_patches, decode, loss = (
        PaperMAE.random_masking, PaperMAE.forward_decoder, PaperMAE.forward_loss,
    )  # fmt: skip

    def __init__(self):
        super().__init__()
        self.norm_pix_loss = True
        self.build(PlainBlock, PlainPatches())

    def encode(self, x, keep_out=0.75):
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.mask_patches(x, keep_out)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward(self, imgs, keep_out=0.75):
        latent, mask, ids_restore = self.encode(imgs, keep_out=keep_out)
        pred = self.decode(latent, ids_restore)
        return self.loss(imgs, pred, mask), pred, mask


class ManyTokens(PaperMAE):
    """Four class tokens, with positions or without."""

    tokens = 4

    def __init__(self, placed):
        super().__init__()
        self.num_class_tokens, self.placed = self.tokens, placed
        self.cls_token = nn.Parameter(torch.randn(1, self.tokens, WIDTH))
        positions = torch.cat([torch.randn(1, self.tokens, WIDTH), self.pos_embed[:, 1:]], 1)
        self.pos_embed = nn.Parameter(positions[:, 0 if placed else self.tokens :])

    def forward_encoder(self, x, mask_ratio):
        x = self.patch_embed(x)
        x = x + self.pos_embed[:, -x.shape[1] :]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        first = self.cls_token
        if self.pos_embed.shape[1] > ids_restore.shape[1]:
            first = first + self.pos_embed[:, : self.num_class_tokens]
        x = torch.cat([first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward(self, imgs, mask_ratio=0.75):
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        pred = self.forward_decoder(latent[:, self.tokens - 1 :], ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class SquareMasks(PaperMAE):
    """Masks squares of 2 x 2 patches."""

    def __init__(self):
        super().__init__()
        self.mask_unit = 2

    def random_masking(self, x, mask_ratio):
        b, length, width = x.shape
        side, unit = int(length**0.5), self.mask_unit
        units = (side // unit) ** 2
        order = torch.rand(b, units, device=x.device).argsort(1).argsort(1)
        masked = (order >= int(units * (1 - mask_ratio))).view(b, side // unit, side // unit)
        mask = masked.repeat_interleave(unit, 1).repeat_interleave(unit, 2).flatten(1).float()
        ids_shuffle = mask.argsort(dim=1, stable=True)
        rows = ids_shuffle[:, : int(units * (1 - mask_ratio)) * unit**2, None]
        return x.gather(1, rows.expand(-1, -1, width)), mask, ids_shuffle.argsort(1)


class MoreInputs(PaperMAE):
    """An extra input that may be missing, five channels, a target that may be given."""

    channels = 5

    def __init__(self):
        super().__init__()
        self.patch_embed.proj = nn.Conv2d(self.channels, WIDTH, PATCH, PATCH)
        self.decoder_pred = nn.Linear(DECODER, PATCH * PATCH * self.channels)

    def forward_encoder(self, x, mask_ratio=0.75, offset=None):
        latent, mask, ids_restore = super().forward_encoder(x, mask_ratio)
        return latent if offset is None else latent + offset, mask, ids_restore

    def forward_loss(self, imgs, pred, mask, target=None):
        return super().forward_loss(imgs if target is None else target, pred, mask)

    def forward(self, imgs, mask_ratio=0.75, offset=None):
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, offset)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class OwnRatio(PaperMAE):
    """The mask ratio is an attribute."""

    def __init__(self):
        super().__init__()
        self.mask_ratio = 0.75

    def random_masking(self, x):
        b, length, width = x.shape
        keep = int(length * (1 - self.mask_ratio))
        ids_shuffle = torch.rand(b, length, device=x.device).argsort(1)
        ids_restore = ids_shuffle.argsort(1)
        rows = ids_shuffle[:, :keep, None].expand(-1, -1, width)
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore

    def forward_encoder(self, imgs):
        x = self.patch_embed(imgs) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x), mask, ids_restore

    def forward(self, imgs):
        latent, mask, ids_restore = self.forward_encoder(imgs)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class CrossDecoder(PaperMAE):
    """Decodes queries that look at the encoder's tokens, as CrossMAE does."""

    def __init__(self):
        super().__init__()
        self.cross = nn.MultiheadAttention(DECODER, 2, batch_first=True)

    def forward_decoder(self, x, ids_restore):
        x = self.decoder_embed(x)
        queries = self.mask_token + self.decoder_pos_embed[:, 1:].expand(len(x), -1, -1)
        return self.decoder_pred(self.decoder_norm(self.cross(queries, x, x)[0]))


def test_other_names(imgs):
    plain, model = twins(OtherNames)
    assert {"mask_patches", "encode", "decode", "loss"} <= {*model.fastimae_report.swapped}
    with recorded_masks(model) as drawn:
        ours = step(model, imgs)
    (mask,) = drawn
    plain.mask_patches = lambda x, _: (
        x.gather(1, mask.ids_keep.long()[..., None].expand(-1, -1, x.shape[2])),
        mask.mask,
        mask.ids_restore.long(),
    )
    for one, other in zip(ours, step(plain, imgs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("placed", [True, False])
def test_several_class_tokens(placed, imgs):
    plain, model = twins(lambda: ManyTokens(placed))
    assert not model.fastimae_report.left, model.fastimae_report
    assert_alike(plain, model, imgs)


def test_squares_of_patches(imgs):
    plain, model = twins(SquareMasks)
    assert not model.fastimae_report.left, model.fastimae_report
    assert_alike(plain, model, imgs)
    mask = model(imgs)[2].view(3, 2, 2, 2, 2).transpose(2, 3).flatten(3)
    assert (mask.mean(-1) % 1 == 0).all() and mask.mean() == 0.75
    model.mask_unit = plain.mask_unit = 1
    mask = model(imgs)[2].view(3, 2, 2, 2, 2).transpose(2, 3).flatten(3)
    assert (mask.mean(-1) % 1 > 0).any(), "the original, as its setting has changed"


def test_a_mask_ratio_of_the_model(imgs):
    plain, model = twins(OwnRatio)
    assert not model.fastimae_report.left, model.fastimae_report
    assert_alike(plain, model, imgs)
    for ratio, removed in ((0.5, 8), (0.0, 0)):
        plain.mask_ratio = model.mask_ratio = ratio
        if removed:
            assert_alike(plain, model, imgs)
        assert (model.forward_encoder(imgs)[1].sum(1) == removed).all()


def test_more_inputs():
    plain = MoreInputs()
    imgs = torch.randn(3, MoreInputs.channels, SIZE, SIZE)
    model = MoreInputs()
    model.load_state_dict(plain.state_dict())
    fastimae.accelerate(model, measure=False)
    model(imgs)
    assert not model.fastimae_report.left and "forward_loss" in model.fastimae_report.swapped
    assert_alike(plain, model, imgs)
    for one in (plain, model):
        torch.manual_seed(3)
        one.found = one(imgs, offset=torch.ones(WIDTH))
    for ours, theirs in zip(model.found, plain.found, strict=True):
        assert ours.shape == theirs.shape


def test_a_decoder_of_cross_attention_is_left(imgs):
    plain, model = twins(CrossDecoder)
    report = model.fastimae_report
    assert report.left["forward_decoder"] == "reads self.cross, which may change what it does"
    assert {"forward_encoder", "forward_loss", ATTENTION} <= {*report.swapped}
    assert_alike(plain, model, imgs)


class CrossBlock(PlainBlock):
    def forward(self, x, memory):
        return super().forward(x + memory.mean(1, keepdim=True))


def test_blocks_that_need_more_are_the_reason():
    model = PaperMAE()
    model.decoder_blocks = nn.ModuleList([CrossBlock(DECODER, 2)])
    left = fastimae.accelerate(model, measure=False).fastimae_report.left
    assert left["forward_decoder"] == "CrossBlock takes memory, too: ours has none"


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.mae = PaperMAE()

    def forward(self, imgs):
        return self.mae(imgs)


def test_a_mae_within_another_model(imgs):
    model = tried(Nested())
    assert "mae.forward_encoder" in model.fastimae_report.swapped
    assert not model.fastimae_report.left
