"""Pictures of the objectives: correct denormalisation, and the content that titles promise."""

import pytest
import torch

from fastimae.kernels import random_masking
from fastimae.kernels.reference import normalise, normalise_patches, patchify
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.pictures import covering_masks, mask_out, paste, predicted_images

SIZES = {
    "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def model(**overrides):
    return create_model("mae_vit_tiny_patch4", img_size=(8, 12), **SIZES, **overrides)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_perfect_prediction_is_the_image(norm_pix):
    net = model(norm_pix_loss=norm_pix)
    images = torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    images[0, :4, :4] = 90  # a flat patch
    target = normalise(patchify(images, 4), net.mean, net.std)
    pred = normalise_patches(target) if norm_pix else target
    assert torch.equal(predicted_images(net, pred, images), images)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7])
def test_covering_masks_mask_every_patch(ratio):
    mask = random_masking(torch.arange(3), (2, 6), ratio)
    masks = list(covering_masks(mask, (2, 6)))
    assert torch.equal(masks[0].mask, mask.mask)
    assert all(m.ids_keep.shape == mask.ids_keep.shape for m in masks)
    assert (sum(m.mask for m in masks) >= 1).all()


def test_masked_patches_are_gray_and_the_others_untouched():
    net = model()
    images = torch.randint(0, 100, (2, 8, 12, 3), dtype=torch.uint8)
    mask = random_masking(torch.arange(2), net.grid, 0.5)
    shown = mask_out(net, images, mask)
    hidden = mask.mask.view(2, 2, 3).repeat_interleave(4, 1).repeat_interleave(4, 2).bool()
    assert (shown[hidden] == 128).all() and torch.equal(shown[~hidden], images[~hidden])
    assert torch.equal(paste(net, images, shown, mask), shown)


def test_mae_pictures(make_batch):
    batch, objective = make_batch(3, (8, 12)), MAE(model())
    batch.images //= 3  # no pixel is as gray as a masked one
    pictures = objective.reconstruct(batch)
    assert list(pictures) == ["input", "masked", "reconstruction"]
    visible = pictures["masked"] == pictures["input"]
    same = pictures["reconstruction"] == pictures["input"]
    assert same[visible].all() and not same.all()


def test_imae_pictures_show_both_images_and_predictions_everywhere(make_batch):
    batch = make_batch(4, (8, 12))
    objective = IMAE(model(heads=2), mix_lambda=0.25, mask_ratio=0.5)
    pictures = objective.reconstruct(batch)
    assert torch.equal(pictures["dominant"], batch.images[batch.partner])
    mixture = 0.25 * batch.images.double() + 0.75 * batch.images[batch.partner].double()
    assert (pictures["mixture"].double() - mixture).abs().max() <= 0.5 + 1e-4
    for role in ("subordinate", "dominant"):
        shown = pictures[f"{role} reconstructed"]
        # an untrained model predicts gray noise: no patch may be a copy of the true one
        patches = [patchify(x, 4) for x in (shown, pictures[role])]
        assert (patches[0] != patches[1]).any(-1).all()


def test_imae_pictures_have_a_mixing_ratio_in_each_row(make_batch):
    """A training draws the same batch each time: with one ratio it might never show two images."""
    batch = make_batch(8, (8, 12))
    batch.images[batch.partner] = 255
    batch.images[batch.partner[::2]] = 0
    ratios = []
    for mix_per in ("batch", "sample"):
        objective = IMAE(model(heads=2), mix_per=mix_per, mask_ratio=0.5)
        pictures = objective.reconstruct(batch)
        ratios.append(objective.ratio.of_samples(batch.key))
        x, other = (pictures[role].double() for role in ("subordinate", "dominant"))
        weight = ratios[-1].double()[:, None, None, None]
        assert (pictures["mixture"] - (weight * x + (1 - weight) * other)).abs().max() <= 0.5 + 1e-4
    assert torch.equal(*ratios) and len(ratios[0].unique()) == 8
