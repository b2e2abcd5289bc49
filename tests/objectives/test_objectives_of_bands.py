"""Objectives on images of six channels and 16 bits."""

import dataclasses
import functools
import json

import built_in
import oracle
import pytest
import torch
from built_in import NO_SUM, OBJECTIVES
from tiny import NAME, SIDE, tiny_model
from torchvision.transforms.functional import gaussian_blur
from toy_images import BANDS, save_bands, save_gray

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.objectives import MAE
from fastimae.objectives.blur import blur, radius_of
from fastimae.objectives.cutmix import CutMix
from fastimae.objectives.pixels import Pixels
from fastimae.objectives.settings import PixelSettings
from fastimae.pictures import reconstruction
from fastimae.settings import ConfigError


@pytest.fixture
def batch(make_batch):
    """Four images in two pairs, of 8 bits."""
    batch = make_batch(4, (SIDE, SIDE), 6)
    return dataclasses.replace(batch, partner=torch.tensor([1, 0, 3, 2]))


def deep(batch):
    """Return the batch with the same pixels in 16 bits: 65535 = 257 * 255."""
    return dataclasses.replace(batch, images=(batch.images.int() * 257).to(torch.uint16))


def with_noise(batch):
    """Return the batch with other images, which use all of 16 bits."""
    images = torch.randint(0, 65536, batch.images.shape).to(torch.uint16)
    return dataclasses.replace(batch, images=images)


def objective_of(name):
    """Build it without colour jitter, which is for RGB."""
    return built_in.build(name, functools.partial(tiny_model, **BANDS), color_jitter=0.0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equal_pixels_of_8_and_16_bits_have_the_same_losses_and_gradients(name, batch):
    objective = objective_of(name)
    results = []
    for images in (batch, deep(batch)):
        parts = objective(images)
        weights = [p for p in objective.student.parameters() if p.requires_grad]
        grads = torch.autograd.grad(parts["loss"], weights, allow_unused=True)
        results.append((parts, [grad for grad in grads if grad is not None]))
    assert results[0][0]["loss"] > 0
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name not in NO_SUM])
def test_two_halves_of_a_batch_of_16_bits_add_up(name, batch):
    """So any number of ranks and micro-batches gives the same loss."""
    objective, batch = objective_of(name), with_noise(batch)
    whole, halves = objective(batch), []
    for rows in (slice(0, 2), slice(2, 4)):
        part = {key: getattr(batch, key)[rows] for key in ("images", "labels", "index", "key")}
        halves.append(objective(dataclasses.replace(batch, partner=torch.tensor([1, 0]), **part)))
    for part, value in whole.items():
        torch.testing.assert_close(value, (halves[0][part] + halves[1][part]) / 2)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_maes_loss_is_that_of_float64(batch, norm_pix):
    batch, model = with_noise(batch), tiny_model(**BANDS, norm_pix_loss=norm_pix)
    objective = MAE(model)
    expected = oracle.mae_loss(
        batch.images, objective.draw_mask(batch.key).ids_keep.tolist(),
        oracle.float64(model.state_dict()), patch=model.patch_size, heads=4, decoder_heads=4,
        mean=model.mean, std=model.std, norm_pix=norm_pix,
    )  # fmt: skip
    torch.testing.assert_close(objective(batch)["loss"].double(), expected, rtol=1e-5, atol=0)


def test_cutmix_pastes_boxes_of_16_bits(batch):
    batch, cutmix = with_noise(batch), CutMix(1.0)
    got, boxes = cutmix(batch.images, batch.partner, batch.key), cutmix.boxes(batch.key, SIDE, SIDE)
    for i, (top, bottom, left, right) in enumerate(boxes.tolist()):
        expected = batch.images[i].clone()
        expected[top:bottom, left:right] = batch.images[batch.partner[i]][top:bottom, left:right]
        assert torch.equal(got[i], expected)


def test_blur_of_16_bits_is_torchvisions(batch):
    images, sigma = with_noise(batch).images, torch.tensor([0.3, 1.0, 2.0, 0.0])
    got = blur(images, sigma)
    assert got.dtype == torch.uint16 and torch.equal(got[3], images[3])
    taps = 2 * radius_of(SIDE, SIDE) + 1
    for image, blurred, width in zip(images[:3], got, sigma.tolist(), strict=False):
        planes = image.double().permute(2, 0, 1)
        exact = gaussian_blur(planes, [taps, taps], [width, width]).permute(1, 2, 0)
        assert (blurred.double() - exact).abs().max() < 0.6


@pytest.mark.parametrize("on", ["images", "visible"])
def test_colour_jitter_of_16_bits_names_the_flag(make_batch, on):
    options = PixelSettings(color_jitter=0.4, color_jitter_on=on)
    pixels, batch = Pixels(tiny_model(), options), deep(make_batch(2, (SIDE, SIDE)))
    with pytest.raises(ConfigError, match=r"color_jitter .*8 bits, and these are uint16"):
        pixels(batch)


def test_a_resumed_run_is_an_uninterrupted_one(tmp_path, monkeypatch):
    """Of MAE, with CutMix and blur, from files of 16 bits."""
    monkeypatch.setattr(reconstruction, "draw_grid", save_gray)
    command = f"--data_path {save_bands(tmp_path / 'data', 4)} --model {NAME} --input_size {SIDE} "
    command += "--mix_group 2 --batch_size 4 --epochs 2 --warmup_epochs 0 "
    command += "--num_workers 0 --device cpu --cutmix 1 --blur 0.5 --show_channels 4 2 0 "
    command += "--in_chans 6 --mean .1 .1 .1 .1 .1 .1 --std .05 .05 .05 .05 .05 .05"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert cli.train(f"{command} --output_dir {whole} --save_freq 1".split()) == 0
    middle = f"--resume {whole / 'checkpoint-0.pth'}"
    assert cli.train(f"{command} --output_dir {parts} {middle}".split()) == 0
    one, other = (load_checkpoint(run / "checkpoint-last.pth") for run in (whole, parts))
    for key, value in one["model"].items():
        assert torch.equal(value, other["model"][key]), key
    logs = [(run / "log.txt").read_text().splitlines() for run in (whole, parts)]
    losses = [json.loads(log[-1])["train_loss"] for log in logs]
    assert losses[0] == losses[1] and one["args"]["in_chans"] == 6
