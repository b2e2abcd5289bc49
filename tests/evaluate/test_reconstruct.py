"""Reconstructions: the picture files, their pixels, and the numbers beside them."""

import dataclasses
import json

import matplotlib.image
import pytest
import torch
from tiny import save_run, tiny_model

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches
from fastimae.kernels.reference import patchify
from fastimae.loaders import create_loader
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE
from fastimae.pictures.display import Display
from fastimae.pictures.reconstruction import draw_fixed_images, draw_grid, save_reconstruction
from fastimae.settings import ConfigError

pytest.importorskip("torchmetrics")
pytest.importorskip("piq")
from fastimae.evaluate.tasks.reconstruct import ReconstructOptions, reconstruct, run

DISPLAY = Display((0.5,) * 3, (0.5,) * 3)


def test_grid_shows_the_images_in_order(tmp_path):
    colors = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], dtype=torch.uint8)
    images = colors[:, None, None].expand(-1, 8, 8, -1)
    draw_grid({"a": images[:2], "b": images[2:]}, tmp_path / "x.png", "a note")
    picture = matplotlib.image.imread(tmp_path / "x.png")[..., :3]
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    middles = {}
    for name, color in zip(("a0", "a1", "b0", "b1"), colors, strict=True):
        rows, columns = (abs(picture - color.numpy() / 255).max(-1) < 0.02).nonzero()
        assert len(rows) > 1000, name
        middles[name] = (rows.mean(), columns.mean())
    assert middles["a0"][0] < middles["a1"][0] and middles["b0"][0] < middles["b1"][0]
    assert middles["a0"][1] < middles["b0"][1] and middles["a1"][1] < middles["b1"][1]


def test_picture_says_what_norm_pix_leaks(tmp_path, make_batch, monkeypatch):
    notes = []
    monkeypatch.setattr(
        "fastimae.pictures.reconstruction.draw_grid",
        lambda pictures, path, note: notes.append((list(pictures), note)),
    )
    for norm_pix in (False, True):
        student = create_model("mae_vit_tiny_patch8", img_size=32, heads=2, norm_pix_loss=norm_pix)
        save_reconstruction(IMAE(student), tmp_path / "x.png", make_batch(4), DISPLAY)
    titles, plain = notes[0]
    assert titles == [
        "subordinate", "dominant", "mixture", "masked",
        "subordinate reconstructed", "dominant reconstructed",
    ]  # fmt: skip
    assert "norm_pix_loss" not in plain and "norm_pix_loss" in notes[1][1]
    assert "mask ratio 0.75" in plain and "masked" in plain


def test_training_draws_the_same_images_each_time_and_reads_them_once(tmp_path, monkeypatch):
    """They are read when the first picture is due, and a resumed run draws the same."""
    drawn, read = [], []
    monkeypatch.setattr(
        "fastimae.pictures.reconstruction.draw_grid",
        lambda pictures, path, note: drawn.append(pictures["input"]),
    )
    for batch_size in (4, 8):
        loader = create_loader(
            synthetic=True, synthetic_samples=40, batch_size=batch_size, input_size=(32, 32)
        )
        wrapped = loader.fixed_batch
        loader.fixed_batch = lambda count, wrapped=wrapped: read.append(count) or wrapped(count)
        draw = draw_fixed_images(MAE(tiny_model()), loader, tmp_path / "x.png", DISPLAY)
        next(iter(loader))
        assert read == [16] * (batch_size // 8)
        assert draw() == draw() == tmp_path / "x.png"
    assert read == [16, 16] and len(drawn) == 4
    assert all(len(images) == 8 and torch.equal(images, drawn[0]) for images in drawn)
    assert draw_fixed_images(MAE(tiny_model()), loader, None, DISPLAY)() is None and len(drawn) == 4


def pairs_of(image_folder, model, **changes):
    settings = {"samples": 12, "batch_size": 12, "workers": 0}
    return next(iter(PairBatches(open_images(image_folder), model, **{**settings, **changes})))


def patches(images):
    return patchify(images, 8)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_mae_is_shown_as_the_model_predicts(image_folder, norm_pix):
    model = tiny_model(norm_pix_loss=norm_pix)
    batch = pairs_of(image_folder, model)
    result = reconstruct(model, batch, 0.75)
    mask = batch.mask(model, 0.75, 1)
    with torch.no_grad():
        _, pred, masked = model(batch.images, mask=mask)
    if norm_pix:  # back from each patch's own mean and deviation
        mean, std = (torch.tensor(values).repeat(64) for values in (model.mean, model.std))
        truth = (patches(batch.images).float() / 255 - mean) / std
        pred = pred * (truth.var(-1, keepdim=True) + 1e-6).sqrt() + truth.mean(-1, keepdim=True)
    pixels = pred * torch.tensor(model.std).repeat(64) + torch.tensor(model.mean).repeat(64)
    pixels = (255 * pixels).clamp(0, 255)
    hidden = masked.bool()
    pasted, whole = (patches(result.views[view]["image"]) for view in ("pasted", "whole"))
    assert (pasted[hidden].float() - pixels[hidden]).abs().max() < 0.51
    assert torch.equal(pasted[~hidden], patches(batch.images)[~hidden])
    assert torch.equal(whole[hidden], pasted[hidden])
    assert patches(result.masked)[hidden].eq(128).all()
    # Predictions for visible patches are from another pass, in which they were masked.
    assert not torch.equal(whole[~hidden], pasted[~hidden])


def test_whole_predictions_never_saw_their_patch(image_folder):
    """Other pixels in a patch do not change the prediction for it."""
    model = tiny_model()
    batch = pairs_of(image_folder, model)
    changed = batch.images.clone()
    changed[:, :8, :8] = 255 - changed[:, :8, :8]
    other = dataclasses.replace(batch, images=changed)
    first, second = (reconstruct(model, b, 0.5).views["whole"]["image"] for b in (batch, other))
    assert torch.equal(first[:, :8, :8], second[:, :8, :8])
    assert not torch.equal(first[:, 8:], second[:, 8:])


def test_imae_shows_each_image_from_its_own_head(image_folder):
    model = tiny_model(heads=2)
    batch = pairs_of(image_folder, model)
    result = reconstruct(model, batch, 0.75, 0.2)
    mixed = 0.2 * batch.images.float() + 0.8 * batch.images[batch.partner].float()
    assert (result.given.float() - mixed).abs().max() < 0.51
    assert torch.equal(result.truths["subordinate"], batch.images)
    assert torch.equal(result.truths["dominant"], batch.images[batch.partner])
    swapped = tiny_model(heads=2)
    weights = model.state_dict()
    for kind in ("weight", "bias"):
        one, two = f"decoder_embed1.{kind}", f"decoder_embed2.{kind}"
        weights[one], weights[two] = weights[two], weights[one]
    swapped.load_state_dict(weights)
    other = reconstruct(swapped, batch, 0.75, 0.2)
    whole, others = result.views["whole"], other.views["whole"]
    assert torch.equal(whole["subordinate"], others["dominant"])
    assert not torch.equal(whole["subordinate"], whole["dominant"])


def grid_options(checkpoint, image_folder, **changes):
    return ReconstructOptions(
        **{
            "checkpoint": checkpoint, "data_path": image_folder, "device": "cpu",
            "num_workers": 0, "batch_size": 8, "samples": 16, "mix_ratios": (0.1, 0.4),
            "mask_ratios": (0.5, 0.75), "pictures": 2, **changes,
        }
    )  # fmt: skip


def test_numbers_of_the_grid_are_means_over_all_images(tmp_path, image_folder):
    model = tiny_model(heads=2, norm_pix_loss=True)
    run(grid_options(save_run(tmp_path, model), image_folder))
    folder = tmp_path / "eval-reconstruct"
    numbers = json.loads((folder / "results.json").read_text())["numbers"]
    assert numbers["images"] == 16 and "norm_pix_loss" in numbers["note"]
    assert len(numbers["table"]) == 2 * 2 * 2 * 2
    names = ("every_ratio", "over_mask_ratio", "over_mix_ratio", "quality")
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(names)
    wanted = {"mask_ratio": 0.75, "mix_ratio": 0.1, "branch": "dominant", "view": "whole"}
    (row,) = [r for r in numbers["table"] if wanted.items() <= r.items()]
    errors = []
    for batch in PairBatches(open_images(image_folder), model, samples=16, batch_size=8, workers=0):
        result = reconstruct(model, batch, 0.75, 0.1)
        whole = result.views["whole"]
        shown, truth = (view["dominant"].double() / 255 for view in (whole, result.truths))
        errors.append((shown - truth).square().mean((1, 2, 3)))
    errors = torch.cat(errors)
    assert row["mse"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert row["psnr"] == pytest.approx((-10 * errors.log10()).mean().item(), rel=1e-5)
    assert {"ssim", "fsim"} <= row.keys()


def test_an_encoder_alone_is_refused(tmp_path, image_folder):
    path = save_run(tmp_path, tiny_model())
    content = load_checkpoint(path)
    content["model"] = {
        name: weight
        for name, weight in content["model"].items()
        if not name.startswith(("decoder_", "mask_token"))
    }
    save_checkpoint(path, content)
    with pytest.raises(CheckpointError, match="no decoder, only an encoder"):
        run(grid_options(path, image_folder))


def test_ratios_that_mean_nothing_are_refused(tmp_path, image_folder):
    for changes in ({"mask_ratios": (1.0,)}, {"mix_ratios": (0.7,)}):
        with pytest.raises(ConfigError, match=f"--{next(iter(changes))}"):
            run(grid_options(tmp_path / "x.pth", image_folder, **changes))
