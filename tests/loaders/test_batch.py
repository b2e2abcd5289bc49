"""`Batch.from_tensors`: a user's own images as objectives take them."""

import numpy as np
import pytest
import torch

import fastimae
from fastimae.loaders import Batch
from fastimae.objectives import IMAE, MAE

IMAGES = torch.randint(256, (6, 32, 16, 3), dtype=torch.uint8, generator=torch.Generator())
NCHW = IMAGES.permute(0, 3, 1, 2)


def test_both_layouts_are_the_same_images():
    for images in (IMAGES, NCHW, NCHW.contiguous()):
        batch = Batch.from_tensors(images, torch.arange(6).int())
        assert torch.equal(batch.images, IMAGES) and batch.images.is_contiguous()
        assert batch.labels.tolist() == batch.index.tolist() == list(range(6))
        assert {batch.labels.dtype, batch.key.dtype, batch.partner.dtype} == {torch.int64}
    assert torch.equal(Batch.from_tensors(IMAGES.numpy()).images, IMAGES)
    gray = IMAGES[..., :1]
    assert torch.equal(Batch.from_tensors(gray.permute(0, 3, 1, 2)).images, gray)
    assert Batch.from_tensors(IMAGES).labels.tolist() == [-1] * 6


def test_keys_follow_from_seed_step_and_rank_alone():
    def keys(**where):
        return set(Batch.from_tensors(IMAGES, **where).key.tolist())

    wheres = [{}, {"seed": 1}, {"step": 1}, {"step": 1 << 30}, {"rank": 1}, {"rank": 2, "step": 1}]
    assert len(set().union(*(keys(**where) for where in wheres))) == 6 * len(wheres)
    assert keys(step=3) == keys(step=3)

    def step_key(**where):
        return Batch.from_tensors(IMAGES, **where).step_key.item()

    assert step_key(step=2) == step_key(step=2, rank=5) != step_key(step=3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_partners_are_one_random_cycle(count):
    seen = set()
    for step in range(20):
        partner = Batch.from_tensors(IMAGES[:1].repeat(count, 1, 1, 1), step=step).partner
        at, steps = int(partner[0]), 1
        while at:
            at, steps = int(partner[at]), steps + 1
        assert steps == count
        seen.add(tuple(partner.tolist()))
    assert len(seen) == 1 if count < 3 else len(seen) > 15


def test_both_objectives_learn_from_it():
    for heads, objective in ((1, MAE), (2, IMAE)):
        torch.manual_seed(0)
        model = fastimae.create_model("mae_vit_nano_patch8", img_size=(32, 16), heads=heads)
        learner, losses = objective(model), []
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for step in range(12):
            loss = learner(Batch.from_tensors(NCHW, step=step))["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_own_partners_are_used():
    pairs = torch.tensor([1, 0, 3, 2, 5, 4])
    assert torch.equal(Batch.from_tensors(IMAGES, partner=pairs).partner, pairs)


def test_what_does_not_fit_is_named():
    for images, given, said in (
        (IMAGES / 255, {}, "images are float32, not uint8: .* PILToTensor"),
        (IMAGES[0], {}, r"images must be \[B, H, W, C\] or \[B, C, H, W\], not \[32, 16, 3\]"),
        (torch.zeros(1, 6, 9, 6).byte(), {}, "either axis of 6 could be the channels"),
        (IMAGES, {"labels": torch.arange(5)}, "labels must be 6 whole numbers"),
        (IMAGES, {"labels": torch.rand(6)}, r"not float32 \[6\]"),
        (IMAGES, {"partner": torch.arange(6)[None]}, "partner must be 6 whole numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            Batch.from_tensors(images, **given)


def test_many_channels_and_16_bits_in_either_layout():
    pixels = torch.randint(65536, (2, 20, 24, 6), dtype=torch.int32).to(torch.uint16)
    for given in (pixels, pixels.movedim(-1, 1), pixels.numpy()):
        batch = Batch.from_tensors(given)
        assert batch.images.dtype == torch.uint16
        assert np.array_equal(batch.images, pixels)
