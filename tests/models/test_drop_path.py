"""Stochastic depth against a transcription in numpy and the float64 oracle, and when it acts."""

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from tiny import HEADS, tiny_model

from fastimae.engine.blocks import recompute_blocks
from fastimae.loaders.order.philox import DrawStream, philox
from fastimae.models.drop_path import path_factors, scaled
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.cmae import CMAE
from fastimae.objectives.rmae import RMAE
from fastimae.objectives.second_view import second_key
from fastimae.objectives.settings import CMAESettings
from fastimae.settings import ConfigError

RATE, DEPTH = 0.6, 3
MASKING = {"mask_ratio": 0.75}


def transcribed(key, rate, depth):
    """Return the factors of one sample, [depth][2]: word 2 i + j of its stream, from numpy."""
    counters = np.zeros(((2 * depth + 3) // 4, 4), np.uint32)
    counters[:, 0], counters[:, 3] = range(len(counters)), DrawStream.DROP_PATH
    words = philox(key, counters).flatten()
    factors = []
    for i in range(depth):
        dropped = rate * i / (depth - 1)
        pair = words[2 * i : 2 * i + 2] / 2.0**32
        factors.append([0.0 if u < dropped else 1 / (1 - dropped) for u in pair])
    return factors


def student(**overrides):
    return tiny_model(depth=DEPTH, drop_path=RATE, **overrides).train()


def gradients(objective, batch):
    objective.zero_grad()
    objective(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_factors_are_the_transcriptions(depth):
    keys = torch.randint(-(2**62), 2**62, (200,))
    got = path_factors(keys, RATE, depth)
    assert got.shape == (depth, 2, 200) and got.dtype == torch.float32
    wanted = torch.tensor([transcribed(key, RATE, depth) for key in keys.tolist()])
    torch.testing.assert_close(got, wanted.permute(1, 2, 0).float())
    assert (got[0] == 1).all() and (got[-1] == 0).any()


def test_the_mean_of_the_factors_is_one():
    got = path_factors(torch.arange(40_000), RATE, DEPTH)
    torch.testing.assert_close(got.mean(-1), torch.ones(DEPTH, 2), rtol=0, atol=0.03)
    dropped = (got == 0).float().mean(-1)
    wanted = torch.tensor([0, 0.3, 0.6])[:, None].expand(-1, 2)
    torch.testing.assert_close(dropped, wanted, rtol=0, atol=0.01)
    both = ((got[-1] == 0).all(0)).float().mean()  # attention and MLP are drawn independently
    assert abs(both - 0.36) < 0.01


def test_a_change_in_bf16_is_scaled_in_fp32():
    change = torch.randn(2, 3, 8).bfloat16()
    factor = torch.tensor([1 / 0.7, 0.0])
    wanted = (change.double() * factor.double()[:, None, None]).bfloat16()
    assert torch.equal(scaled(change, factor), wanted)


def test_loss_and_gradients_are_the_oracles(make_batch):
    batch, model = make_batch(4, (32, 32)), student()
    objective = MAE(model, **MASKING).train()
    got = gradients(objective, batch)
    state = oracle.float64(model.state_dict())
    wanted = oracle.mae_loss(
        batch.images, objective.draw_mask(batch.key).ids_keep.tolist(), state,
        patch=8, heads=HEADS, decoder_heads=HEADS, mean=model.mean, std=model.std, norm_pix=False,
        paths=[transcribed(key, RATE, DEPTH) for key in batch.key.tolist()],
    )  # fmt: skip
    wanted.backward()
    assert objective(batch)["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)
    for name, grad in got.items():
        exact = state[name.removeprefix("student.")].grad
        torch.testing.assert_close(grad.double(), exact, rtol=1e-4, atol=1e-6, msg=name)


def test_halves_of_a_batch_drop_what_the_whole_drops(make_batch):
    batch, objective = make_batch(4, (32, 32)), MAE(student(), **MASKING).train()
    whole = gradients(objective, batch)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        tensors = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
        each = {name: t[rows] for name, t in tensors.items() if t is not None and len(t) == 4}
        parts.append(gradients(objective, dataclasses.replace(batch, **each)))
    for name, grad in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6)


def test_recomputed_and_compiled_blocks_drop_the_same(make_batch):
    batch, objective = make_batch(4, (32, 32)), MAE(student(), **MASKING).train()
    plain = gradients(objective, batch)
    objective.student.blocks[1].compile(fullgraph=True, backend="eager")
    compiled = gradients(objective, batch)
    again = MAE(student(), **MASKING).train()
    again.load_state_dict(objective.state_dict())
    recompute_blocks(again.student)
    for got in (compiled, gradients(again, batch)):
        for name, grad in plain.items():
            torch.testing.assert_close(got[name], grad, rtol=1e-5, atol=1e-6)


def test_only_training_drops(make_batch):
    """Neither evaluation nor pictures do: they equal a model without it, bit by bit."""
    batch, model = make_batch(4, (32, 32)), student()
    without = tiny_model(depth=DEPTH)
    without.load_state_dict(model.state_dict())
    objective, other = MAE(model, **MASKING), MAE(without, **MASKING)
    wanted = other(batch)["loss"]
    assert objective.train()(batch)["loss"] != wanted
    assert torch.equal(objective.eval()(batch)["loss"], wanted)
    pictures = objective.train().reconstruct(batch)
    assert all(torch.equal(pictures[name], p) for name, p in other.reconstruct(batch).items())


def spied(objective, batch):
    """Return the keys with which the student's blocks run, in order."""
    seen, run = [], objective.student.run
    objective.student.run = lambda x, key=None: seen.append(key) or run(x, key)
    objective.train()(batch)
    return seen


def test_each_view_has_draws_of_its_own(make_batch):
    batch = make_batch(4, (32, 32))
    (first, second) = spied(RMAE(student(), **MASKING), batch)
    assert torch.equal(first, batch.key) and torch.equal(second, second_key(batch.key))
    (mixed,) = spied(IMAE(student(heads=2), tiny_model(), **MASKING), batch)
    assert torch.equal(mixed, batch.key)


def test_weighted_feature_maps_are_of_the_paths_that_are_taken(make_batch):
    """The last map alone is the usual latent."""
    batch = make_batch(4, (32, 32))
    maps = student(decoder_attention="cross", weighted_feature_maps=True, decoder_depth=1)
    usual = student(decoder_attention="cross", decoder_depth=1)
    maps.decoder_map_weights.data = torch.tensor([[0.0, 0, 0, 1]])
    usual.load_state_dict(maps.state_dict(), strict=False)
    one, other = (MAE(model, **MASKING).train()(batch)["loss"] for model in (maps, usual))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mask_tokens", [True, False])
def test_the_target_of_cmae_drops_nothing(make_batch, mask_tokens):
    settings = CMAESettings(
        encoder_mask_tokens=mask_tokens, second_view="full", proj_hidden_dim=8, proj_dim=6
    )
    objective, batch = CMAE(student(decoder=False), settings).train(), make_batch(4, (32, 32))
    assert [key is batch.key for key in spied(objective, batch)] == [True]
    assert not objective.target["student"].drops_paths and objective.student.drops_paths


def test_the_models_own_interface_drops_too():
    model, images = student(), torch.randn(4, 3, 32, 32)
    losses = set()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        mask = MAE(model, **MASKING).draw_mask(torch.arange(4))
        losses.add(model(images, mask=mask)[0].item())
    assert len(losses) == 2


def test_an_objective_without_keys_is_refused():
    model = student()
    ids = torch.zeros(2, 4, dtype=torch.int32)
    with pytest.raises(ConfigError, match="--drop_path draws from the keys of samples"):
        model.encode(torch.randn(2, 4, 192), ids)
    model.eval().encode(torch.randn(2, 4, 192), ids)
