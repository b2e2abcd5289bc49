"""The first call of each part is a trial without a trace; what does not pay is left alone."""

import copy
import dataclasses
import time

import pytest
import torch
from interop.foreign_maes import PaperMAE, PlainAttention, PlainBlock
from interop.twins import is_swapped, louder
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastimae
from fastimae.foreign_models.attention_part import ATTENTION
from fastimae.foreign_models.installed import installed_in
from fastimae.foreign_models.timing import compare_times, surely_exceeded


class Blocks(nn.Module):
    """Two blocks and a head: no MAE."""

    def __init__(self, use_checkpoint=False, **options):
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Sequential(*(PlainBlock(48, 3, **options) for _ in range(2)))
        self.head, self.use_checkpoint = nn.Linear(48, 5), use_checkpoint

    def forward(self, x):
        for block in self.encoder:
            x = checkpoint(block, x, use_reentrant=False) if self.use_checkpoint else block(x)
        return self.head(x.mean(1))


@pytest.fixture
def tokens():
    return torch.randn(3, 7, 48)


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def assert_same_gradients(model, plain, x):
    for ours, theirs in zip(gradients(model, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def slower(seconds):
    """Return the attention part, but slow."""

    def replacement(self, x):
        time.sleep(seconds)
        return ATTENTION.replacement(self, x)

    return dataclasses.replace(ATTENTION, replacement=replacement)


def attention_sites(model):
    return [block.attn.forward for block in model.encoder]


def test_any_module_with_known_parts(tokens):
    model = fastimae.accelerate(Blocks(), measure=False)
    assert len(model.fastimae_report.waiting) == 6
    assert_same_gradients(model, Blocks(), tokens)
    assert len(model.fastimae_report.swapped) == 6
    with pytest.raises(TypeError, match="Linear has no part that is known here"):
        fastimae.accelerate(nn.Linear(2, 2))


@pytest.mark.parametrize("slow", [True, False])
def test_what_is_slower_is_left_alone(tokens, slow, monkeypatch):
    model = fastimae.accelerate(Blocks())
    own = PlainAttention.forward
    for site in attention_sites(model):
        if slow:
            site.part = slower(2e-3)
        else:
            monkeypatch.setattr(site.preconditions, "change", lambda: "")
    if not slow:
        delayed = lambda self, x: [time.sleep(2e-3), own(self, x)][1]  # noqa: E731
        monkeypatch.setattr(PlainAttention, "forward", delayed)
    model(tokens)
    rows = {row.part: row for row in model.fastimae_report.rows}
    for at in (0, 1):
        row = rows[f"encoder.{at}.attn"]
        assert (row.speedup < 1) == slow and row.state == ("left" if slow else "swapped")
        assert row.why == ("no faster here" if slow else "") and 0 < row.share <= 1
        assert "torch's own on cpu" in rows[f"encoder.{at}.mlp"].why
    assert len(model.encoder[0].attn.forward.session.times) == 1, "equal parts are measured once"
    monkeypatch.undo()
    fastimae.accelerate(model, measure=False)
    for site in attention_sites(model):
        site.part = slower(1e-3)
    model(tokens)
    assert all(is_swapped(block.attn) for block in model.encoder)


def test_noise_is_no_gain():
    """97.5 % sure is 9 of 9, 8 of 9 or 15 of 20 rounds; five rounds are too few to be sure."""
    assert surely_exceeded([2.0] * 5) == 0
    assert surely_exceeded([0.5, *[1.1] * 8]) == 1.1 and surely_exceeded([0.5] * 2 + [9.0] * 7) < 1
    assert (
        surely_exceeded([0.5] * 5 + [1.1] * 15) == 1.1 and surely_exceeded([0.5] * 6 + [9] * 14) < 1
    )


def test_masks_that_nothing_needs_are_its_own(imgs):
    model, plain = fastimae.accelerate(PaperMAE(), measure=False), PaperMAE()
    model(imgs)
    for name in ("forward_encoder", "forward_loss"):
        site = vars(model)[name]
        site.verdicts = [dataclasses.replace(v, swapped=False) for v in site.verdicts]
    assert model.fastimae_report.left["random_masking"] == "no other part has use for it"
    masks = []
    for one in (model, plain):
        torch.manual_seed(2)
        masks.append(one(imgs)[2])
    assert torch.equal(*masks)


def test_blocks_that_both_call_are_not_timed(imgs, monkeypatch):
    model, calls = fastimae.accelerate(PaperMAE()), []
    own = PlainBlock.forward
    monkeypatch.setattr(PlainBlock, "forward", lambda *args: [calls.append(1), own(*args)][1])
    model.blocks[0].forward = lambda x: [calls.append(2), own(model.blocks[0], x)][1]
    with torch.no_grad():
        compare_times(model.forward_encoder, (imgs, 0.75))
        assert not calls and model(imgs)[0] > 0 and 2 in calls


def test_a_trial_leaves_no_trace(tokens):
    """Gradients, random numbers, hooks on parameters, buffers, what is kept for checkpointing."""
    model, seen = Blocks(use_checkpoint=True), []
    model.encoder[0].register_buffer("calls", torch.zeros(()))
    plain = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
        parameter.register_hook(lambda grad: seen.append(1))
    fastimae.accelerate(model)
    state = torch.get_rng_state()
    loss = model(tokens).square().sum()
    assert torch.equal(torch.get_rng_state(), state) and not seen
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    loss.backward()
    assert len(seen) == len(list(model.parameters()))
    assert_same_gradients(model, plain, tokens)


def test_each_signature_is_tried(tokens):
    """Lengths, formats, modes, gradients, autocast; another batch size is not another signature."""
    model = fastimae.accelerate(Blocks(), measure=False)
    (site, _) = attention_sites(model)
    calls = [
        lambda: model(tokens), lambda: model(tokens[:, :4]), lambda: model.eval()(tokens),
        lambda: torch.no_grad()(model)(tokens), lambda: model.double()(tokens.double()),
    ]  # fmt: skip
    for count, call in enumerate(calls, start=1):
        call()
        assert site.trials == len(site.verdicts) == count
        call()
        assert site.trials == count
    model.float().train()
    model(tokens[:1])
    assert site.trials == len(calls)
    with torch.autocast("cpu", torch.bfloat16):
        model(tokens)
    assert site.trials == len(calls) + 1 and all(v.swapped for v in site.verdicts)


def test_values_that_are_not_finite_decide_nothing(tokens):
    model = fastimae.accelerate(Blocks(), measure=False)
    assert model(tokens * float("nan")).isnan().all()
    assert not model.fastimae_report.swapped
    model(tokens)
    assert len(model.fastimae_report.swapped) == 6


def test_changes_between_accelerating_and_the_first_call(tokens):
    model, plain = fastimae.accelerate(Blocks(), measure=False), Blocks()
    for one in (model, plain):
        one.encoder[0].attn.attn_drop.register_forward_hook(louder)
        one.encoder[1].mlp[1] = nn.Tanh()
        one.encoder[1].norm2.eps = 0.5
    assert_same_gradients(model, plain, tokens)
    assert set(model.fastimae_report.swapped) == {"encoder.0", "encoder.0.mlp", "encoder.1.attn"}
    model.encoder[0].mlp.append(nn.Tanh())
    plain.encoder[0].mlp.append(nn.Tanh())
    assert_same_gradients(model, plain, tokens)


def test_what_is_not_ours_is_left_with_its_reason(tokens):
    model = Blocks()
    model.encoder[0].mlp[1] = nn.ReLU()
    model.encoder[1].mlp[1] = nn.GELU("tanh")
    model.encoder[0].norm2 = nn.LayerNorm(48, bias=False)
    model.encoder[1].attn.attn_drop.p = 0.5
    left = fastimae.accelerate(model).fastimae_report.left
    assert left["encoder.0.mlp"] == "its activation is ReLU(), and ours the exact GELU"
    assert "approximate='tanh'" in left["encoder.1.mlp"]
    assert left["encoder.0"] == "norm2 is a LayerNorm, and ours a LayerNorm with a bias"
    assert left["encoder.1.attn"] == "differs in training: Dropout(p=0.5, inplace=False)"


def test_restore_leaves_nothing(imgs):
    model = PaperMAE()
    before = [dict(vars(module)) for module in model.modules()]
    fastimae.accelerate(model, measure=False)
    assert [dict(vars(module)) for module in model.modules()] != before
    model(imgs)
    assert installed_in(model) and fastimae.restore(model) is model
    assert [dict(vars(module)) for module in model.modules()] == before
    assert fastimae.restore(model) is model
    plain = PaperMAE()
    plain.load_state_dict(model.state_dict())
    for one in (plain, model):
        torch.manual_seed(2)
        one.loss = one(imgs)[0]
    assert torch.equal(plain.loss, model.loss)
