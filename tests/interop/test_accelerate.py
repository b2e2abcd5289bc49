"""Our kernels in three foreign MAEs: equal losses, predictions and gradients, or left alone."""

import copy
import dataclasses
import pickle

import pytest
import torch
from interop.foreign_maes import (
    PATCHES,
    OwnMAE,
    PaperMAE,
    PlainAttention,
    PlainPatches,
    TimmMAE,
)
from interop.twins import is_swapped, same_twins, tried
from torch import nn

import fastimae
from fastimae.foreign_models import trial
from fastimae.foreign_models.first_call import AccelerationError
from fastimae.foreign_models.mae_proofs import recorded_masks, without_replacements
from fastimae.foreign_models.site import Site

METHODS = ("random_masking", "forward_encoder", "forward_decoder", "forward_loss")
BLOCKS = ("blocks.0", "blocks.1", "decoder_blocks.0")
ATTENTION = tuple(f"{block}.attn" for block in BLOCKS)
PARTS = {*METHODS, *BLOCKS, *ATTENTION, *(f"{block}.mlp" for block in BLOCKS)}


def build(kind, **options):
    if kind is TimmMAE:
        pytest.importorskip("timm")
    return kind(**options)


def both(model, imgs, **options):
    """Return (outputs, gradients), accelerated and original, with the same masks."""
    with recorded_masks(model) as drawn:
        found = [step(model, imgs, **options)]
    assert drawn
    with without_replacements(model, drawn):
        assert not any(isinstance(v, Site) for m in model.modules() for v in vars(m).values())
        found.append(step(model, imgs, **options))
    return found


def step(model, imgs, **options):
    model.zero_grad()
    outputs = model(imgs, **options)
    outputs = list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
    outputs[0].backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    return [output.detach() for output in outputs] + gradients


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (PaperMAE, set()),
        (TimmMAE, set()),
        (OwnMAE, {"forward_loss", "decoder_blocks.0.attn"}),
    ],
)
def test_same_loss_prediction_and_gradients(kind, left, imgs):
    model = build(kind)
    keys = list(model.state_dict())
    assert fastimae.accelerate(model, measure=False) is model
    assert set(model.fastimae_report.waiting) >= PARTS - left - {"forward_loss"}
    tried(model)
    assert set(model.fastimae_report.left) == left
    assert set(model.fastimae_report.swapped) == PARTS - left
    for ratio in (0.75, 0.5):
        for ours, theirs in zip(*both(model, imgs, mask_ratio=ratio), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert list(model.state_dict()) == keys
    assert all(part.training for part in model.modules())


def test_the_report_gives_reasons(imgs):
    model = tried(OwnMAE())
    lines = [" ".join(line.split()) for line in str(model.fastimae_report).splitlines()]
    assert lines[0] == "part state speed share why"
    assert {"blocks.*.attn (2) swapped", "forward_encoder swapped"} <= {*lines}
    assert "decoder_blocks.0.attn left OtherAttention has no Linear called qkv" in lines
    loss = next(line for line in lines if line.startswith("forward_loss"))
    assert loss.startswith("forward_loss left differs in training: the output is off by")


def test_patches_that_are_masked_are_not_embedded(imgs):
    _, model = same_twins(PaperMAE)
    model.patch_embed.forward = None  # a call would raise
    assert model(imgs)[0] > 0


def test_other_calls_go_to_the_original(imgs):
    plain, model = same_twins(PaperMAE)
    torch.manual_seed(3)
    latent, mask, _ = model.forward_encoder(imgs, 0.0)
    torch.manual_seed(3)
    torch.testing.assert_close(latent, plain.forward_encoder(imgs, 0.0)[0])
    assert latent.shape[1] == 1 + PATCHES and not mask.any()
    wanting = imgs.clone().requires_grad_()
    model(wanting)[0].backward()
    assert wanting.grad.abs().sum() > 0
    uneven = torch.zeros(3, PATCHES)
    uneven[0, :3] = uneven[1, :5] = 1
    pred = torch.randn(3, PATCHES, 192)
    assert torch.equal(
        model.forward_loss(imgs, pred, uneven), plain.forward_loss(imgs, pred, uneven)
    )
    own = tried(OwnMAE()).blocks[0].attn
    x, bias = torch.randn(2, 5, 48), torch.randn(5, 5)
    assert torch.equal(own(x, bias), type(own).forward(own, x, bias))
    assert not torch.allclose(own(x, bias), own(x), atol=1e-3)


class LouderAttention(PlainAttention):
    """Attention with another scale."""

    def __init__(self, dim, num_heads):
        super().__init__(dim, num_heads)
        self.scale = 0.3


class NormedAttention(PlainAttention):
    """Attention with normalised queries and keys."""

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (nn.functional.normalize(part, dim=-1) for part in (q, k))
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"attention": LouderAttention}, "differs in training"),
        ({"attention": NormedAttention}, "differs in training"),
        ({"drop": 0.2}, "differs in training"),
    ],
)
def test_attention_that_is_not_plain_is_left_alone(options, why, imgs):
    model = tried(PaperMAE(**options))
    assert all(why in model.fastimae_report.left[name] for name in ATTENTION)
    assert not is_swapped(model.blocks[0].attn)
    assert "forward_encoder" in model.fastimae_report.swapped


@pytest.mark.parametrize("options", [{"qk_norm": True}, {"attn_drop": 0.1}, {"proj_drop": 0.1}])
def test_timm_attention_with_extra_parts_is_left_alone(options):
    model = tried(build(TimmMAE, **options))
    assert set(model.fastimae_report.left) >= set(ATTENTION)


class GridMAE(PaperMAE):
    """Keeps every fourth patch: as many as MAE, not at random."""

    def random_masking(self, x, mask_ratio):
        keep = int(x.shape[1] * (1 - mask_ratio))
        ids_restore = torch.arange(x.shape[1]).view(keep, -1).T.flatten().argsort()
        ids_restore = ids_restore.expand(len(x), -1)
        order = ids_restore.argsort(dim=1)
        rows = order[:, :keep, None].expand(-1, -1, x.shape[2])
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore


class FrozenPatches(PlainPatches):
    """MoCo v3's trick: the same outputs, other gradients."""

    def forward(self, imgs):
        return super().forward(imgs).detach()


def test_methods_that_only_look_alike_are_left_alone(imgs):
    left = tried(GridMAE()).fastimae_report.left
    assert set(left) == {"random_masking", "forward_encoder", "forward_loss"}
    model = PaperMAE()
    model.patch_embed = FrozenPatches()
    left = tried(model).fastimae_report.left
    assert "gradient of patch_embed.proj.weight" in left["forward_encoder"]
    with pytest.raises(TypeError, match="Linear has no part that is known here"):
        tried(nn.Linear(2, 2))


def test_debug_checks_the_first_call(imgs):
    model = fastimae.accelerate(PaperMAE(), measure=False, debug=True)
    torch.manual_seed(5)
    first = model(imgs)
    assert "forward" not in model.__dict__
    torch.manual_seed(5)
    assert torch.equal(first[1], model(imgs)[1])
    first[0].backward()  # the check has not consumed the graph


def test_debug_names_what_differs(imgs):
    """A replacement that is equal in trials alone."""
    model = fastimae.accelerate(PaperMAE(), measure=False, debug=True)
    site = model.forward_loss
    ours = site.part.replacement
    changed = lambda *args: (1 if trial.ONGOING else 2) * ours(*args)  # noqa: E731
    site.part = dataclasses.replace(site.part, replacement=changed)
    with pytest.raises(AccelerationError, match=r"original's: loss is off by.*, gradient of"):
        model(imgs)


def test_copies_are_independent(imgs):
    model = tried(PaperMAE())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            again.decoder_pred.bias.add_(1)
        torch.manual_seed(1)
        ours = model(imgs)[1]
        torch.manual_seed(1)
        torch.testing.assert_close(again(imgs)[1], ours + 1)
    assert tried(model).forward_loss is model.forward_loss


def test_masks_are_uniform():
    """Each pair of patches is masked together as often as any other."""
    (_, model), samples = same_twins(PaperMAE), 4000
    _, mask, _ = model.random_masking(torch.randn(samples, PATCHES, 2), 0.75)
    expected = torch.full((PATCHES, PATCHES), 0.75 * 11 / 15).fill_diagonal_(0.75)
    together = mask.T @ mask / samples
    assert (together - expected).abs().max() < 5 * (0.25 / samples) ** 0.5
