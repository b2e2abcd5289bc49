"""Pictures of images of many channels and of 16 bits: what is shown, and what captions say."""

import pytest
import torch
from tiny import SIDE, tiny_model

from fastimae.kernels import random_masking
from fastimae.objectives import MAE
from fastimae.objectives.pictures import mask_out, mix_images, paste, predicted_images
from fastimae.pictures import reconstruction
from fastimae.pictures.display import MASKED_GRAY, Display
from fastimae.settings import ConfigError

MEAN, STD = (0.1, 0.2, 0.5, 0.05, 0.9, 0.5), (0.03, 0.05, 0.25, 0.05, 0.1, 0.5)
DEEP = torch.uint16


def deep_images(count=2, channels=6):
    return torch.randint(0, 65536, (count, SIDE, SIDE, channels)).to(DEEP)


def test_ordinary_images_are_shown_as_they_are():
    for channels in (1, 3):
        images = torch.randint(0, 256, (2, 4, 4, channels), dtype=torch.uint8)
        display = Display(MEAN[:channels], STD[:channels])
        assert display(images) is images and display.note(torch.uint8) == ""


def test_channels_are_chosen_and_captions_say_which():
    images = torch.randint(0, 256, (2, 4, 4, 6), dtype=torch.uint8)
    for chosen, shown, words in (
        (None, [0, 1, 2], "Channels 0, 1, 2 of 6, as red, green, blue"),
        ((5, 0, 3), [5, 0, 3], "Channels 5, 0, 3 of 6, as red, green, blue"),
        ((4,), [4], "Channel 4 of 6, in gray"),
    ):
        display = Display(MEAN, STD, chosen)
        assert torch.equal(display(images), images[..., shown])
        assert display.note(torch.uint8) == words
    two = Display(MEAN[:2], STD[:2])
    assert torch.equal(two(images[..., :2]), images[..., :1])
    assert two.note(torch.uint8) == "Channel 0 of 2, in gray"


@pytest.mark.parametrize(
    ("chosen", "words"),
    [((0, 1), "three channels, or one"), ((0, 1, 6), "only the channels 0 to 5"), ((-1,), "0 to")],
)
def test_channels_that_cannot_be_shown_name_the_flag(chosen, words):
    with pytest.raises(ConfigError, match=f"show_channels .*{words}"):
        Display(MEAN, STD, chosen)


def test_16_bits_are_stretched_around_the_mean_by_channel():
    images = deep_images()
    shares = images.double() / 65535
    expected = []
    for c in (0, 1, 4):
        low, high = max(MEAN[c] - 2 * STD[c], 0), min(MEAN[c] + 2 * STD[c], 1)
        expected.append(((shares[..., c] - low) / (high - low) * 255).clamp(0, 255))
    shown = Display(MEAN, STD, (0, 1, 4))(images)
    assert shown.dtype == torch.uint8
    assert (shown.double() - torch.stack(expected, -1)).abs().max() < 0.51
    assert "16 bits: black and white are 2 standard" in Display(MEAN, STD).note(DEEP)


def test_what_is_masked_is_gray_in_16_bits_too():
    model, images = tiny_model(in_chans=6, mean=MEAN, std=STD), deep_images()
    mask = random_masking(torch.arange(2), model.grid, 0.75)
    shown = Display(MEAN, STD)(mask_out(model, images, mask))
    hidden = mask.mask.bool().view(2, *model.grid)
    hidden = hidden.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert (shown[hidden].int() - MASKED_GRAY).abs().max() <= 1
    assert torch.equal(shown[~hidden], Display(MEAN, STD)(images)[~hidden])


def test_perfect_predictions_of_16_bits_are_the_images():
    """Within a level or two: fp32 has 24 bits."""
    model, images = tiny_model(in_chans=6, mean=MEAN, std=STD), deep_images()
    shares = images.double() / 65535
    normal = (shares - torch.tensor(MEAN)) / torch.tensor(STD)
    pred = model.patchify(normal.permute(0, 3, 1, 2)).float()
    got = predicted_images(model, pred, images)
    assert got.dtype == DEEP and (got.int() - images.int()).abs().max() <= 1
    mask = random_masking(torch.arange(2), model.grid, 0.75)
    assert torch.equal(paste(model, images, images, mask), images)
    mixed = mix_images(images, torch.tensor([1, 0]), torch.tensor([0.3, 1.0]))
    wanted = 0.3 * images[0].double() + 0.7 * images[1].double()
    assert (mixed[0].double() - wanted).abs().max() < 0.51 and torch.equal(mixed[1], images[1])


def test_training_draws_the_chosen_channels_of_16_bits(tmp_path, make_batch, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        reconstruction, "draw_grid", lambda images, path, note: drawn.update(images, note=note)
    )
    batch = make_batch(2, (SIDE, SIDE))
    batch.images = deep_images()
    display = Display(MEAN, STD, (3, 0, 5))
    objective = MAE(tiny_model(in_chans=6, mean=MEAN, std=STD))
    reconstruction.save_reconstruction(objective, tmp_path / "x.png", batch, display)
    assert torch.equal(drawn["input"], display(batch.images))
    assert drawn["reconstruction"].shape == (2, SIDE, SIDE, 3)
    assert drawn["note"].endswith(display.note(DEEP)) and "mask ratio" in drawn["note"]
