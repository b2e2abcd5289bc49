"""Training with the fused ops equals training with their specification, compiled or not."""

import copy
import dataclasses
import functools
import sys

import built_in
import pytest
import torch
from built_in import NO_SUM, OBJECTIVES
from operations import operations, that_add_up

from fastimae import kernels
from fastimae.kernels import reference
from fastimae.models import MaskedAutoencoder
from fastimae.models import mae as model_module
from fastimae.objectives import imae as imae_module
from fastimae.objectives import mae as mae_module
from fastimae.objectives import mixing as mixing_module

STEPS = 100
SIZES = {
    "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3,
    "decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
SHALLOW = {"depth": 1, "decoder_depth": 1}


def build(kind, sizes=SIZES, **settings):
    make = functools.partial(MaskedAutoencoder, norm_pix_loss=True, **sizes)
    return built_in.build(kind, make, **settings)


def specification(monkeypatch):
    """Let models and objectives use only `kernels.reference`."""

    def mix_patchify(*args, clean=True, dtype=torch.float32, **mixture):
        streams = reference.mix_patchify(*args, **mixture)
        return tuple(stream.to(dtype) for stream in (streams if clean else streams[:1]))

    def masked_l2(pred, images, target, ids, *args, branches=None, **ignored):
        parts = zip(pred.chunk(branches or 1), target.chunk(branches or 1), strict=True)
        losses = [reference.masked_l2(p, images, t, ids, *args, **ignored) for p, t in parts]
        return losses[0] if branches is None else torch.stack(losses)

    def latent_l2(student, teacher, branches):
        parts = zip(student.chunk(branches), teacher.chunk(branches), strict=True)
        return torch.stack([reference.latent_l2(*part) for part in parts])

    monkeypatch.setattr("fastimae.models.encoder.mix_patchify", mix_patchify)
    monkeypatch.setattr(model_module, "masked_l2", masked_l2)
    monkeypatch.setattr(model_module, "assemble_tokens", reference.assemble_tokens)
    monkeypatch.setattr(model_module, "SHARED_MASK_TOKENS_FROM", 2)
    monkeypatch.setattr(imae_module, "latent_l2", latent_l2)
    monkeypatch.setattr("fastimae.models.vit.attention", reference.attention)


def train(objective, make_batch, steps=STEPS, precision=None, size=8):
    """Return the losses of some steps on a few batches."""
    torch.manual_seed(1)
    batches = [make_batch(size) for _ in range(4)]
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), fused=True), []
    for step in range(steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(batches[step % 4])["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_100_steps_have_the_losses_of_the_specification(kind, make_batch, monkeypatch):
    objective = build(kind)
    again = copy.deepcopy(objective)
    fused = train(objective, make_batch)
    bf16 = train(copy.deepcopy(again), make_batch, precision="bf16")
    specification(monkeypatch)
    plain = train(again, make_batch)
    assert plain[-1] < 0.9 * plain[0]
    assert fused == pytest.approx(plain, rel=1e-3)  # rounding that grew over 100 steps
    assert fused[:10] == pytest.approx(plain[:10], rel=1e-5)
    assert bf16 == pytest.approx(plain, rel=3e-2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_the_triton_kernels_have_the_same_losses(kind, make_batch, monkeypatch):
    """All of them run in the interpreter."""
    objective = build(kind, SIZES | SHALLOW)
    expected = train(copy.deepcopy(objective), make_batch, steps=3, size=2)
    for module in (model_module, imae_module, mae_module, mixing_module):
        for name in set(kernels.__all__) & set(vars(module)) - {"Mask"}:
            op = functools.partial(getattr(kernels, name), impl="triton")
            monkeypatch.setattr(module, name, op)
    # On a GPU, attention's kernel does not take fp32: its products need too many registers.
    monkeypatch.setattr(sys.modules["fastimae.kernels.attention"], "_DTYPES", (torch.float32,))
    for name in ("attention", "add_norm"):
        op = functools.partial(getattr(kernels, name), impl="triton")
        monkeypatch.setattr(f"fastimae.models.vit.{name}", op)
    assert train(objective, make_batch, steps=3, size=2) == pytest.approx(expected, rel=1e-5)


CASES = [(name, {}) for name in OBJECTIVES]
CASES += [(name, {"ignore_boundary": 2}) for name in ("mae", "imae")]


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=str)
def test_no_gradient_is_added_up(kind, settings, make_batch):
    """Atomics would add in varying order, so that no two runs on a GPU agree."""
    loss = build(kind, **settings)(make_batch(4))["loss"]
    assert not that_add_up(operations(loss.backward))


@pytest.mark.parametrize("kind", [name for name in OBJECTIVES if name not in NO_SUM])
def test_halves_of_a_batch_add_up_to_it(kind, make_batch):
    """So that --accum_iter 2 with half a --batch_size is the same step."""
    objective = build(kind)
    whole = dataclasses.replace(make_batch(8), partner=torch.arange(8) ^ 1)
    halves = [
        dataclasses.replace(whole, partner=torch.arange(4) ^ 1, **{
            name: getattr(whole, name)[part] for name in ("images", "labels", "index", "key")
        })
        for part in (slice(0, 4), slice(4, 8))
    ]  # fmt: skip
    grads = []
    for batches in ([whole], halves):
        objective.zero_grad()
        for batch in batches:
            (objective(batch)["loss"] / len(batches)).backward()
        grads.append([p.grad.clone() for p in objective.parameters() if p.requires_grad])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_step_compiles_as_one_graph(kind, make_batch):
    objective = build(kind, SIZES | SHALLOW)
    again, batch = copy.deepcopy(objective), make_batch(8)
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    for call in (objective, compiled):
        for _ in range(2):
            parts = call(batch)
            parts["loss"].backward()
    expected = objective(batch)
    assert compiled(batch).keys() == expected.keys()
    for name, value in compiled(batch).items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-6), name
    for (name, a), b in zip(objective.named_parameters(), again.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)
