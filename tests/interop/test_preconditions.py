"""Changes to an accelerated model take effect, as in a copy that was not accelerated."""

import copy
import pickle

import pytest
import torch
from interop import changing_maes as zoo
from interop.foreign_maes import PATCHES, SIZE, PaperMAE, PlainPatches, TimmMAE
from interop.twins import (
    assert_alike,
    differs,
    louder,
    same_twins,
    setting,
    setting_all,
    tried,
    twins,
)
from torch import nn

import fastimae
from fastimae.foreign_models.installed import Installed, installed_in
from fastimae.foreign_models.mae_proofs import recorded_masks


class Alien(PlainPatches):
    def forward(self, imgs):
        return super().forward(imgs).detach()


class LowRankLinear(nn.Module):
    """A wrapper around a Linear, without its attributes."""

    def __init__(self, base):
        super().__init__()
        self.base, self.down = base, nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Wrapped(nn.Module):
    """A wrapper that hides what it wraps."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return 2 * self.base(x)


def swapped(path, build):
    def switch(model):
        torch.manual_seed(5)
        owner, _, name = path.rpartition(".")
        owner = model.get_submodule(owner)
        setattr(owner, name, build(getattr(owner, name)))

    return switch


def other_patchify(model):
    model.patchify = lambda imgs: PaperMAE.patchify(model, imgs).flip(-1)


def other_masking(model):
    model.random_masking = lambda x, ratio: PaperMAE.random_masking(model, x.flip(1), ratio)


def other_loss(model):
    model.forward_loss = lambda imgs, pred, mask: PaperMAE.forward_loss(model, imgs, pred, 1 - mask)


LATER = {
    "dropout": setting_all("attn_drop", "p", 0.5),
    "another scale": lambda m: setattr(m.blocks[0].attn, "scale", 1.0),
    "norm_pix_loss": setting("norm_pix_loss", False),
    "dropout put in": swapped("blocks.0.attn.attn_drop", lambda _: nn.Dropout(0.5)),
    "other patches": swapped("patch_embed", lambda _: Alien()),
    "other projection": swapped("patch_embed.proj", lambda p: zoo.LowRank(3, len(p.weight), 8, 8)),
    "wrapped projection": swapped("patch_embed.proj", Wrapped),
    "bare patches": swapped("patch_embed", lambda patches: nn.Sequential(patches, nn.ReLU())),
    "adapter": swapped("blocks.0.attn.qkv", LowRankLinear),
    "fewer blocks": swapped("blocks", lambda blocks: blocks[:1]),
    "patchify": other_patchify,
    "masking": other_masking,
    "loss": other_loss,
    "evaluation": lambda model: model.eval(),
    "double": lambda model: model.double(),
    "frozen": lambda model: model.patch_embed.requires_grad_(False),
}


@pytest.mark.parametrize("case", LATER)
def test_later_changes_take_effect(case):
    plain, model = same_twins(PaperMAE)
    assert not model.fastimae_report.left
    imgs = torch.randn(3, 3, SIZE, SIZE)
    before = assert_alike(plain, model, imgs)
    for one in (plain, model):
        LATER[case](one)
    if case == "double":
        imgs = imgs.double()
    after = assert_alike(plain, model, imgs)
    assert case == "evaluation" or len(before) != len(after) or case == "double" or differs(
        before, after
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name", "value", "part"),
    [
        (zoo.RampedGlobal, "WEIGHT", 0.5, "forward_loss"),
        (zoo.CurriculumGlobal, "EPOCH", 5, "random_masking"),
    ],
)
def test_constants_of_a_module_are_preconditions(
    kind, name, value, part, imgs, monkeypatch, caplog
):
    plain, model = twins(kind)
    assert part in model.fastimae_report.swapped
    before = assert_alike(plain, model, imgs)
    monkeypatch.setattr(zoo, name, value)
    after = assert_alike(plain, model, imgs)
    assert differs(before, after)
    assert f"{part} runs the original method: the global {name} has changed" in caplog.text


def test_a_class_that_is_changed_later(imgs, monkeypatch):
    plain, model = twins(zoo.OneSequence)
    loss = PaperMAE.forward_loss
    monkeypatch.setattr(PaperMAE, "forward_loss", lambda *args: 2 * loss(*args))
    assert_alike(plain, model, imgs)


class WritingMAE(PaperMAE):
    """Its forward counts some patches twice."""

    def forward(self, imgs, mask_ratio=0.75):
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio)
        mask[:, :4] *= 2
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


def test_a_mask_that_was_written_to(imgs):
    plain, model = twins(WritingMAE)
    assert not model.fastimae_report.left
    assert_alike(plain, model, imgs)


def autocast_step(model, imgs):
    with torch.autocast("cpu", torch.bfloat16):
        model.zero_grad()
        loss, pred, mask = model(imgs)
    loss.backward()
    assert loss.dtype == torch.float32
    return [loss, pred, mask]


def inference(model, imgs):
    with torch.inference_mode():
        return list(model(imgs))


@pytest.mark.parametrize("kind", [PaperMAE, TimmMAE])
@pytest.mark.parametrize("run", [autocast_step, inference])
def test_contexts(kind, run, imgs):
    if kind is TimmMAE:
        pytest.importorskip("timm")
    plain, model = same_twins(kind)
    coarse = {"rtol": 0.05, "atol": 0.05} if run is autocast_step else {}
    assert_alike(plain, model, imgs, run, **coarse)


class LongDecoder(PaperMAE):
    """A block that computes in bfloat16 under autocast, whatever its input is."""

    def forward_decoder(self, x, ids_restore):
        return super().forward_decoder(x, ids_restore).float()


def test_another_number_format_under_autocast_is_left_alone(imgs):
    _, model = twins(LongDecoder)
    assert "forward_decoder" in model.fastimae_report.swapped
    with torch.autocast("cpu", torch.bfloat16):
        model(imgs)
    *_, verdict = model.forward_decoder.verdicts
    assert "differs in training under autocast" in verdict.why and "bfloat16" in verdict.why
    assert f"not where it {verdict.why}" in str(model.fastimae_report)


def test_evaluation_is_tried_again(imgs):
    plain, model = twins(zoo.FixedInEvaluation)
    assert "random_masking" in model.fastimae_report.swapped
    for one in (plain.eval(), model.eval()):
        torch.manual_seed(1)
        one(imgs)
    *_, verdict = model.random_masking.verdicts
    assert not verdict.swapped and "ids_restore" in verdict.why


@pytest.mark.parametrize("shape", [(3, 64, 32), (3, 16, 64), (3, 64, 64), (1, 32, 32)], ids=str)
def test_other_images_end_as_they_do_in_the_original(shape):
    """PaperMAE also takes 16 x 64 pixels, which have the same number of patches."""
    plain, model = same_twins(PaperMAE)
    imgs = torch.randn(2, *shape)
    try:
        plain(imgs)
    except Exception as error:
        with pytest.raises(type(error)):
            model(imgs)
    else:
        assert_alike(plain, model, imgs)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_checking_their_preconditions(again, imgs):
    plain, model = same_twins(PaperMAE)
    torch.manual_seed(2)
    first = model(imgs)[1]
    other = again(model)
    torch.manual_seed(2)
    assert torch.equal(other(imgs)[1], first)
    with recorded_masks(other) as drawn:
        other(imgs)
    assert drawn, "the copy is accelerated"
    for one in (plain, other):
        one.patch_embed.register_forward_hook(louder)
    assert_alike(plain, other, imgs)
    torch.manual_seed(2)
    assert torch.equal(model(imgs)[1], first), "the hook is the copy's alone"


def assert_replicas_are_plain(model):
    for module in model.modules():
        own = {name for name, value in vars(module).items() if isinstance(value, Installed)}
        replica = module._replicate_for_data_parallel()
        assert replica._is_replica and not own & vars(replica).keys()
        assert "_replicate_for_data_parallel" not in vars(replica)


def test_replicas_of_data_parallel_run_the_original(imgs):
    """On another GPU, a replacement would multiply with the first GPU's weights."""
    _, model = same_twins(PaperMAE)
    assert not model.fastimae_report.left
    assert_replicas_are_plain(fastimae.accelerate(PaperMAE()))
    assert_replicas_are_plain(model)
    replica = model.blocks[0].attn._replicate_for_data_parallel()
    for name, child in model.blocks[0].attn.named_children():
        other = copy.deepcopy(child)
        for value in other.parameters():
            value.data += 1
        setattr(replica, name, other)
    x = torch.randn(2, 5, replica.qkv.in_features)
    expected = type(replica).forward(replica, x)
    assert torch.equal(replica(x), expected) and not torch.allclose(
        model.blocks[0].attn(x), expected
    )
    for replacement in installed_in(model):
        replacement.remove()
    assert not any("_replicate_for_data_parallel" in vars(module) for module in model.modules())


def test_a_change_is_logged_with_the_modules_name(imgs, caplog):
    _, model = same_twins(PaperMAE)
    model.blocks[1].attn.attn_drop.p = 0.5
    model(imgs)
    (line,) = (text for text in caplog.messages if "original method" in text)
    assert "blocks.1.attn.forward runs the original method" in line


def test_another_number_format_is_tried_again(imgs):
    plain, model = same_twins(PaperMAE)
    for one in (plain, model):
        one.bfloat16()
    assert_alike(plain, model, imgs.bfloat16(), rtol=0.05, atol=0.05)
    formats = {verdict.signature[2][0] for verdict in model.blocks[0].attn.forward.verdicts}
    assert formats == {torch.float32, torch.bfloat16}


def test_compiles_into_one_graph(imgs):
    """Preconditions become guards: nothing breaks the graph."""
    model = PaperMAE()
    model.blocks = model.blocks[:1]
    tried(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    _, pred, mask = compiled(imgs)
    assert pred.shape == (3, PATCHES, 192) and mask.sum() == 3 * 0.75 * PATCHES
    model.blocks[0].attn.attn_drop.p = 1.0
    zeroed = compiled(imgs)[1]
    assert zeroed.isfinite().all()
