"""The formulas agree with the operations that torch counts in forward and backward."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fastimae.kernels.reference import gather_rows
from fastimae.models import create_model
from fastimae.models.flops import decoder_flops, latent_flops, training_flops
from fastimae.objectives import CMAE, IMAE, MAE, RMAE
from fastimae.objectives.settings import CMAESettings

IMAGE, CHANNELS, IMAGES = (32, 48), 5, 4
SIZES = {"img_size": IMAGE, "in_chans": CHANNELS, "depth": 2, "embed_dim": 32, "num_heads": 4}
DECODER = {"decoder_embed_dim": 24, "decoder_depth": 3, "decoder_num_heads": 2}


@pytest.fixture(autouse=True)
def _every_mask_token(monkeypatch):
    """Compute mask tokens as the plain maths does, separately for each image."""
    monkeypatch.setattr("fastimae.models.mae.SHARED_MASK_TOKENS_FROM", 2)


def model(**overrides):
    return create_model("mae_vit_nano_patch8", **{**SIZES, **DECODER, **overrides})


def counted(objective, batch):
    """Count the operations per image that torch sees, with all rows of MAE's last block."""
    student = objective.student
    decode = student.decode

    def every_row(head, mask, masked_only=True, rows=None):
        return gather_rows(decode(head, mask), (rows or mask).ids_masked)

    if student.has_decoder and student.decoder_attention == "self":
        student.decode = every_row
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(batch)["loss"].backward()
    return counter.get_total_flops() / IMAGES


@pytest.mark.parametrize("mask", [{}, {"mask_ratio": 0.5}, {"mask_unit": 2}], ids=str)
def test_of_an_image(make_batch, mask):
    objective = MAE(model(mlp_ratio=3.0), **mask)
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


@pytest.mark.parametrize("predict", [None, 0.25], ids="predict={}".format)
@pytest.mark.parametrize("weighted", [False, True], ids="weighted={}".format)
def test_of_a_cross_decoder(make_batch, predict, weighted):
    student = model(decoder_attention="cross", weighted_feature_maps=weighted, mlp_ratio=3.0)
    objective = MAE(student, predict_ratio=predict)
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


@pytest.mark.parametrize("kind", [IMAE, RMAE])
def test_of_a_cross_decoder_that_is_used_twice(make_batch, kind):
    student = model(decoder_attention="cross", heads=2 if kind is IMAE else 1)
    objective = kind(student, predict_ratio=0.25)
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


def test_of_a_share_in_maes_decoder():
    """What its last block saves is not subtracted, as without a share."""
    assert MAE(model(), predict_ratio=0.25).train_flops() == MAE(model()).train_flops()


@pytest.mark.parametrize("view", ["complement", "independent", "full"])
def test_of_two_views(make_batch, view):
    objective = RMAE(model(), second_view=view)
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


@pytest.mark.parametrize("space", ["decoder", "encoder"])
@pytest.mark.parametrize(
    "how", [None, {}, {"teacher_view": "mixed"}, {"reciprocal_pairs": True}], ids=str
)
def test_of_a_mixture(make_batch, space, how):
    """The teacher's number of passes, and how far they go, differ."""
    teacher = None if how is None else model(depth=3)
    objective = IMAE(model(heads=2, head_space=space), teacher, **(how or {}))
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


@pytest.mark.parametrize("target", ["subordinate", "dominant"])
def test_of_a_mixture_with_one_target(make_batch, target):
    """The other head computes, too, but its output is unused and does not count."""
    objective = IMAE(model(heads=2), model(), targets=target)
    head = 2 * (1 + objective.visible) * 32 * 24
    total = counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))
    assert objective.train_flops() == total - 3 * head


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"tokens": "both", "second_view": "full"},
        {"tokens": "average", "encoder_mask_tokens": False},
        {"encoder_mask_tokens": False, "second_view": "full"},
        {"mask_ratio": 0.0},
    ],
    ids=str,
)
def test_of_contrasted_views(make_batch, how):
    """The target's pass has no backward pass; products with negatives are not counted."""
    settings = CMAESettings(proj_hidden_dim=40, proj_dim=24, color_jitter=0, contrast="byol", **how)
    objective = CMAE(model(decoder=False), settings)
    assert objective.train_flops() == counted(objective, make_batch(IMAGES, IMAGE, CHANNELS))


# Fu et al., CrossMAE (2025): images a second and GB of a ViT-B on 2 A100, with its decoder and with
# MAE's; the abstract of its first version: "2.5 to 3.7x less decoding compute".
PUBLISHED = {"CrossMAE": (1690, 36.8), "MAE": (1142, 68.4), "decoding": (2.5, 3.7)}


def of_base(*, heads=1, predicted=147, visible=49, **sizes):
    """Count a ViT-B: all operations, those of its decoder, and its share."""
    with torch.device("meta"):
        student = create_model("mae_vit_base_patch16", heads=heads, **sizes)
    total = training_flops(student, visible, heads, predicted)
    if heads == 2:  # with a teacher, which sees two clean images
        with torch.device("meta"):
            total += 2 * latent_flops(create_model("mae_vit_base_patch16"), visible, "decoder")
    decoder = 3 * heads * decoder_flops(student, visible, predicted)
    return total, decoder, decoder / total


def test_the_share_of_decoders():
    assert of_base()[2] == pytest.approx(0.555, abs=5e-4)
    assert of_base(heads=2)[2] == pytest.approx(0.599, abs=5e-4)
    pixio = of_base(img_size=256, visible=64, decoder_depth=32)  # with one class token
    assert pixio[2] == pytest.approx(0.834, abs=5e-4)


def test_what_a_cross_decoder_saves():
    """The paper's speed is another thing: 1.5 times MAE's in images a second."""
    cross = {"decoder_attention": "cross", "decoder_depth": 12, "predicted": 49}
    (mae, decoder, _), (crossmae, its_decoder, _) = of_base(), of_base(**cross)
    assert mae / crossmae == pytest.approx(1.553, abs=5e-4)
    low, high = PUBLISHED["decoding"]
    assert low < decoder / its_decoder < high
    assert mae / crossmae > PUBLISHED["CrossMAE"][0] / PUBLISHED["MAE"][0]
    assert of_base(heads=2)[0] / of_base(heads=2, **cross)[0] == pytest.approx(1.624, abs=5e-4)
    maps = of_base(**cross, weighted_feature_maps=True)[0]
    assert mae / maps == pytest.approx(1.499, abs=5e-4)
