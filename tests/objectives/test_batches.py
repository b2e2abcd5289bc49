"""Batches that do not fit the model: objectives, pictures and features refuse them."""

import dataclasses

import pytest
import torch
from tiny import SIDE, tiny_model

from fastimae.evaluate.features import features, latents
from fastimae.evaluate.figures.attention_maps import attention_maps
from fastimae.evaluate.labels.accuracy import hits
from fastimae.evaluate.labels.neighbours import knn_accuracy
from fastimae.evaluate.mixing.mixtures import Pairs, clean_latents, mixture_latents
from fastimae.evaluate.mixing.regression import Moments
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.kernels import Mask, random_masking
from fastimae.objectives import IMAE, MAE
from fastimae.objectives.pictures import mask_out, mix_images, paste, predicted_images
from fastimae.pictures.quality import quality

BYTE = torch.uint8


@pytest.fixture(scope="module", params=["mae", "imae", "imae with a teacher"])
def objective(request):
    if request.param == "mae":
        return MAE(tiny_model())
    teacher = tiny_model() if "teacher" in request.param else None
    return IMAE(tiny_model(heads=2), teacher)


@pytest.fixture
def batch(make_batch):
    return make_batch(4, (SIDE, SIDE))


def changed(batch, **changes):
    return dataclasses.replace(batch, **changes)


CHANGES = {
    "larger images": ({"images": torch.zeros(4, 64, 64, 3, dtype=BYTE)}, "not [4, 64, 64, 3]"),
    "smaller images": ({"images": torch.zeros(4, 16, 16, 3, dtype=BYTE)}, "[B, 32, 32, 3] for"),
    "channels first": ({"images": torch.zeros(4, 3, 32, 32, dtype=BYTE)}, "permute(0, 2, 3, 1)"),
    "floats": ({"images": torch.zeros(4, 32, 32, 3)}, "images must be uint8"),
    "another batch": ({"images": torch.zeros(5, 32, 32, 3, dtype=BYTE)}, "must be [5], not [4]"),
    "short keys": ({"key": torch.arange(4, dtype=torch.int32)}, "key must be int64, not int32"),
    "few keys": ({"key": torch.arange(1)}, "key must be [4], not [1]"),
}
PAIRED = {
    "one partner": ({"partner": torch.arange(1)}, "partner must be [4], not [1]"),
    "short partners": ({"partner": torch.arange(4, dtype=torch.int32)}, "partner must be int64"),
    "step keys": ({"step_key": torch.arange(4)}, "step_key must be [1], not [4]"),
}


@pytest.mark.parametrize("case", [*CHANGES, *PAIRED])
def test_batches_that_do_not_fit_are_refused(objective, batch, case):
    change, words = {**CHANGES, **PAIRED}[case]
    if case in PAIRED and isinstance(objective, MAE):
        assert objective(changed(batch, **change))["loss"] > 0  # MAE ignores them
        return
    calls = [objective, objective.reconstruct]
    if getattr(objective, "teacher", None):
        calls.append(objective.teacher_latents)
    for function in calls:
        with pytest.raises(ValueError) as error:
            function(changed(batch, **change))
        assert words in str(error.value)


def test_masks_and_weights_of_another_batch_are_refused(objective, batch):
    for mask in (
        random_masking(batch.key[:2], (4, 4), 0.5),
        random_masking(batch.key, (2, 4), 0.5),
    ):
        with pytest.raises(ValueError, match=r"mask\.\w+ must be \["):
            objective(batch, mask)
    if isinstance(objective, IMAE):
        with pytest.raises(ValueError, match=r"alpha must be \[4\], not \[1\]"):
            objective(batch, alpha=torch.rand(1))


@pytest.mark.parametrize("case", ["larger images", "smaller images", "channels first", "floats"])
def test_features_of_images_that_do_not_fit_are_refused(batch, case):
    model, (change, words) = tiny_model(), CHANGES[case]
    images, mask = change["images"], random_masking(batch.key, (4, 4), 0.5)
    pairs = Pairs(images=images, partner=batch.partner, labels=batch.labels, key=batch.key)
    for function in (
        lambda: latents(model, images),
        lambda: features(model, images, "avg"),
        lambda: attention_maps(model, images),
        lambda: mixture_latents(model, pairs, mask, 0.3),
        lambda: clean_latents(model, pairs, mask),
        lambda: pairs.mask(model, 0, 1) and latents(model, images),
    ):
        with pytest.raises(ValueError) as error:
            function()
        assert words in str(error.value)


def test_pictures_of_images_that_do_not_fit_are_refused(batch):
    model, images = tiny_model(), batch.images
    mask, pred = random_masking(batch.key, (4, 4), 0.5), torch.zeros(4, 16, 192)
    large, weight = torch.zeros(4, 64, 64, 3, dtype=BYTE), torch.rand(4)
    paste(model, images, predicted_images(model, pred, images), mask)
    for function in (
        lambda: predicted_images(model, pred, large),
        lambda: predicted_images(model, pred[:, :8], images),
        lambda: predicted_images(model, pred[:1], images),
        lambda: paste(model, images, large, mask),
        lambda: paste(model, images, images[:1], mask),
        lambda: paste(model, images, images, Mask(*(part[:1] for part in mask))),
        lambda: mask_out(model, images.float(), mask),
        lambda: mix_images(images, batch.partner[:1], weight),
        lambda: mix_images(images, batch.partner, weight[:1]),
        lambda: mix_images(images.float(), batch.partner, weight),
        lambda: quality(images, large),
        lambda: quality(images, images[:1]),
        lambda: quality(images.float(), images.float()),
    ):
        with pytest.raises(ValueError, match="must be"):
            function()


def test_scores_and_labels_that_do_not_fit_are_refused():
    """One label for three rows would be broadcast."""
    scores, labels, rows = torch.rand(3, 4), torch.arange(3), torch.rand(5, 8)
    settings = {"classes": 4, "ks": (1,), "temperature": 0.1}
    assert hits(scores, labels).shape == (2,)
    moments = Moments(2, 3)
    moments.add(torch.rand(4, 2), torch.rand(4, 3))
    for function in (
        lambda: hits(scores, labels[:1]),
        lambda: hits(scores, labels[:, None]),
        lambda: knn_accuracy(rows, torch.arange(6), rows, torch.arange(5), **settings),
        lambda: knn_accuracy(rows, torch.arange(5), rows, torch.arange(1), **settings),
        lambda: knn_accuracy(rows, torch.arange(5), rows[:, 1:], torch.arange(5), **settings),
        lambda: moments.add(torch.rand(4, 3), torch.rand(4, 2)),
    ):
        with pytest.raises(ValueError, match="must be"):
            function()


def test_a_batch_is_one_line(make_batch):
    batch = make_batch(3, (32, 16))
    assert repr(batch) == "Batch(3 images, 32 x 16 x 3, uint8, on cpu)"
    shown = LabelledBatch(inputs=torch.zeros(2, 3, 8, 8), targets=torch.zeros(2), index=batch.index)
    assert repr(shown) == "LabelledBatch(2 images, 3 x 8 x 8, float32, on cpu)"
    assert repr(shown.to("meta")) == "LabelledBatch(2 images, 3 x 8 x 8, float32, on meta)"
