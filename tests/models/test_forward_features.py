"""`forward_features`: what an encoder sees in whole images, of any layers, against timm's ViT."""

import numpy as np
import pytest
import timm
import torch

from fastimae.interop.finetuned import add_fc_norm
from fastimae.models import IMAGENET_MEAN, IMAGENET_STD, create_model

SIZE, DEPTH = 32, 4
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("mae_vit_nano_patch8", img_size=SIZE)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (3, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)


def normalised(images):
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


@pytest.fixture
def vit(model):
    """The same encoder in timm's code."""
    vit = timm.models.VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=128, depth=DEPTH, num_heads=4, num_classes=0
    )
    vit.load_state_dict(model.state_dict(), strict=False)
    return vit.eval()


def test_tokens_are_those_of_timm(model, vit, images):
    expected = vit.forward_features(normalised(images))
    torch.testing.assert_close(model.forward_features(images), expected, **CLOSE)
    torch.testing.assert_close(model.forward_features(normalised(images)), expected, **CLOSE)


def test_pooled_features(model, images):
    tokens = model.forward_features(images)
    assert torch.equal(model.forward_features(images, "cls"), tokens[:, 0])
    assert torch.equal(model.forward_features(images, "mean"), tokens[:, 1:].mean(1))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("layers", [[0], [1, 3], [-1, 0, -2], [2, 2]])
def test_layers_are_those_of_timm(model, vit, images, layers, norm):
    found = model.forward_features(images, layers=layers, norm=norm)
    expected = vit.get_intermediate_layers(
        normalised(images), n=range(DEPTH), norm=norm, return_prefix_tokens=True
    )
    for layer, tokens in zip(layers, found, strict=True):
        patches, prefix = expected[layer]
        torch.testing.assert_close(tokens, torch.cat([prefix, patches], 1), **CLOSE)


def test_no_layers_are_no_features(model, images):
    assert model.forward_features(images, layers=[]) == []


def test_gradients_reach_weights_and_float_images(model, images):
    floats = normalised(images).requires_grad_()
    model.forward_features(floats, "mean").square().sum().backward()
    assert floats.grad.abs().sum(1).min() > 0
    assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0


def test_a_model_fine_tuned_on_the_mean_norms_only_that(model, images):
    add_fc_norm(model, keep_norm=False)
    torch.nn.init.normal_(model.fc_norm.weight)
    tokens = model.forward_features(images)
    expected = model.fc_norm(tokens[:, 1:].mean(1))
    assert torch.equal(model.forward_features(images, "mean"), expected)
    assert torch.equal(model.forward_features(images, "cls", norm=False), tokens[:, 0])
    with pytest.raises(ValueError, match="use pool='mean'"):
        model.forward_features(images, "cls")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"imgs": torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)}, r"\[B, 32, 32, 3\].*permute"),
        ({"imgs": torch.zeros(2, SIZE, SIZE, 3)}, r"\[B, 3, 32, 32\].*permute"),
        ({"imgs": torch.zeros(2, 3, 64, 64)}, r"\[B, 3, 32, 32\]"),
        ({"imgs": np.zeros((2, SIZE, SIZE, 3), np.uint8)}, "must be a tensor, not ndarray"),
        ({"layers": [4]}, "no block 4, only -4 to 3"),
        ({"layers": [-5]}, "no block -5"),
        ({"pool": "avg"}, "pool must be tokens, cls or mean, not 'avg'"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, change, words):
    with pytest.raises((ValueError, TypeError), match=words):
        model.forward_features(**{"imgs": images, **change})
