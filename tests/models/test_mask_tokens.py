"""An encoder alone, and mask tokens at its input."""

import pytest
import torch

from fastimae.kernels import Mask, random_masking
from fastimae.models import create_model
from fastimae.models.mask_tokens import MaskToken, encode_with_mask_tokens

SIZES = {"img_size": 32, "depth": 2}


@pytest.fixture
def encoder():
    return create_model("mae_vit_nano_patch8", **SIZES, decoder=False)


def patches_of(encoder, images, mask):
    return encoder.visible_patches(images, mask)[0]


def test_an_encoder_alone_has_a_maes_encoder_and_nothing_else(encoder, make_batch):
    mae = create_model("mae_vit_nano_patch8", **SIZES)
    state = {n: v for n, v in mae.state_dict().items() if not n.startswith(("decoder_", "mask_"))}
    encoder.load_state_dict(state)
    images = make_batch(2).images
    assert torch.equal(encoder.forward_features(images), mae.forward_features(images))
    with pytest.raises(TypeError, match="an encoder alone reconstructs nothing"):
        encoder(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_nothing_is_masked_they_change_nothing(encoder, make_batch, dtype):
    encoder, images = encoder.to(dtype), make_batch(2).images
    mask = Mask.of_nothing(2, 16, "cpu")
    patches = patches_of(encoder, images, mask)
    got = encode_with_mask_tokens(encoder, MaskToken(128).weight, patches, mask)
    assert torch.equal(got, encoder.encode(patches, mask.ids_keep))


def test_every_patch_has_a_latent_and_masked_ones_know_only_their_place(encoder, make_batch):
    images, token = make_batch(3).images, MaskToken(128)
    mask = random_masking(torch.arange(3), encoder.grid, 0.5)
    latents = encode_with_mask_tokens(
        encoder, token.weight, patches_of(encoder, images, mask), mask
    )
    assert latents.shape == (3, 17, 128)
    hidden = mask.mask.view(3, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2).bool()
    images[hidden] = 0
    again = encode_with_mask_tokens(encoder, token.weight, patches_of(encoder, images, mask), mask)
    assert torch.equal(latents, again)
    masked = latents[0, 1:][mask.ids_masked[0].long()]
    assert torch.pdist(masked).min() > 1e-3
    latents.square().sum().backward()
    assert token.weight.grad.abs().max() > 0
