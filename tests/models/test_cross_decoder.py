"""A decoder of cross-attention against the float64 oracle, and what it need not compute."""

import oracle
import pytest
import torch

from fastimae.engine.blocks import recompute_blocks
from fastimae.kernels import Mask, random_masking
from fastimae.models import create_model
from fastimae.models.mae import MaskedAutoencoder
from fastimae.objectives.predicted import draw_predicted
from fastimae.settings import ConfigError

SIZES = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 3, "decoder_num_heads": 3,
}  # fmt: skip
PATCHES = 24


def model(**overrides) -> MaskedAutoencoder:
    sizes = {"img_size": (16, 24), "decoder_attention": "cross", **SIZES, **overrides}
    return create_model("mae_vit_tiny_patch4", **sizes)


def expected_loss(student, images, mask, rows):
    """Return the loss of the rows' patches, in float64, and the state that it is a function of."""
    state = oracle.float64(student.state_dict())
    losses = []
    for image, seen, chosen in zip(images, mask.ids_keep, rows.ids_masked, strict=True):
        x = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        weights = state.get("decoder_map_weights", [()] * 3)
        latents = [
            oracle.linear(oracle.encode(x, seen.tolist(), state, 2, each), state, "decoder_embed")
            for each in map(tuple, weights)
        ]
        pred = oracle.decode_across(latents, state, 3)
        others = [i for i in range(PATCHES) if i not in chosen.tolist()]
        losses.append(oracle.pixel_loss(pred, x, others, student.norm_pix_loss))
    return sum(losses) / len(losses), state


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("predicted", [16, 5])
def test_loss_and_gradients_equal_the_float64_oracle(weighted, predicted):
    student = model(weighted_feature_maps=weighted, norm_pix_loss=weighted)
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    key = torch.tensor([3, 4])
    mask = random_masking(key, student.grid, 2 / 3)
    rows = draw_predicted(mask, key, predicted)

    (patches,) = student.visible_patches(images, mask)
    (head,) = student.split(student.encode_for_decoder(patches, mask.ids_keep))
    pred = student.decode(head, mask, rows=rows)
    loss = student.reconstruction_loss(pred, images, torch.arange(2), rows.ids_masked)
    loss.backward()

    expected, state = expected_loss(student, images, mask, rows)
    expected.backward()
    assert pred.shape == (2, predicted, 48)
    assert abs(loss.item() - expected.item()) < 1e-6
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


def prediction(student, rows=None, seed=0):
    mask = random_masking(torch.arange(4), student.grid, 0.75)
    torch.manual_seed(seed)
    latent = torch.randn(4, 1 + mask.ids_keep.shape[1], 16)
    return student.decode(student.split(latent)[0], mask, rows=rows)


def test_a_patch_does_not_depend_on_which_others_are_predicted():
    """In MAE's decoder it depends on all patches. Here visible ones can be asked for, too."""
    student = model()
    every = prediction(student)
    for ratio in (0.9, 0.3):
        rows = random_masking(torch.arange(4) + 7, student.grid, ratio)
        for pred, full, chosen in zip(
            prediction(student, rows), every, rows.ids_masked, strict=True
        ):
            torch.testing.assert_close(pred, full[chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_only_rows_that_are_asked_for_are_computed(share):
    student, sizes = model(), []
    for block in student.decoder_blocks:
        block.mlp.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape[1]))
    prediction(student, random_masking(torch.arange(4), student.grid, share))
    assert sizes == [share * PATCHES] * 3


def test_weights_of_the_last_map_alone_give_the_usual_latent():
    weighted = model(weighted_feature_maps=True)
    weighted.decoder_map_weights.data = torch.tensor([0.0, 0.0, 1.0]).repeat(3, 1)
    plain = model()
    plain.load_state_dict(weighted.state_dict(), strict=False)
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    mask = random_masking(torch.arange(2), plain.grid, 0.5)
    torch.testing.assert_close(weighted(images, mask=mask)[0], plain(images, mask=mask)[0])


@pytest.mark.parametrize("weighted", [False, True])
def test_recomputed_blocks_have_the_same_gradients(weighted):
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    mask, gradients = random_masking(torch.arange(2), (4, 6), 0.75), []
    for recompute in (False, True):
        torch.manual_seed(1)
        student = model(weighted_feature_maps=weighted)
        if recompute:
            recompute_blocks(student)
        student(images, mask=mask)[0].backward()
        gradients.append({n: p.grad for n, p in student.named_parameters() if p.requires_grad})
    torch.testing.assert_close(*gradients)


def test_every_weight_is_initialised():
    """Weights left as they were in memory would be NaN."""
    student = model(weighted_feature_maps=True, decoder_depth=50)
    for parameter in student.parameters():
        parameter.data.fill_(float("nan"))
    student.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in student.parameters())
    assert student.decoder_map_weights.std().item() == pytest.approx(3**-0.5, rel=0.2)


def test_what_does_not_fit_is_one_error():
    with pytest.raises(ConfigError, match="--weighted_feature_maps needs --decoder_attention cr"):
        model(weighted_feature_maps=True, decoder_attention="self")
    with pytest.raises(ConfigError, match="one head"):
        model(weighted_feature_maps=True, heads=2)
    student = model(weighted_feature_maps=True)
    with pytest.raises(ValueError, match=r"head must be \[4, 3, 7, 12\], not \[4, 7, 12\]"):
        prediction(student)
    with pytest.raises(ValueError, match=r"mask\.ids_keep must be"):
        student.decode(torch.randn(2, 3, 25, 12), Mask.of_nothing(1, PATCHES, "cpu"))
