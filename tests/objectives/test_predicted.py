"""Predictions of a share of the masked patches: which are drawn, and each objective's loss."""

import oracle
import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.kernels import Mask, random_masking
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE, OBJECTIVES, RMAE
from fastimae.objectives.predicted import draw_predicted, patches_predicted
from fastimae.settings import ConfigError

SIZES = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
}  # fmt: skip
RUN = ("--synthetic", "--output_dir", "runs/a")
DECODERS = ("self", "cross")


def model(**overrides):
    return create_model("mae_vit_tiny_patch4", **{"img_size": (16, 24), **SIZES, **overrides})


def test_they_are_masked_and_a_function_of_the_key():
    key = torch.randint(2**62, (50,))
    mask = random_masking(key, (4, 6), 0.75)
    rows = draw_predicted(mask, key, 5)
    assert rows.ids_masked.shape == (50, 5)
    assert (rows.mask <= mask.mask).all()
    again = Mask.from_bool(rows.mask.bool())
    assert all(map(torch.equal, rows, again))
    few = draw_predicted(Mask(*(part[7:9] for part in mask)), key[7:9], 5)
    assert all(map(torch.equal, few, (part[7:9] for part in rows)))


def test_more_of_them_include_the_fewer():
    """They are the first ones of a permutation."""
    key = torch.arange(20)
    mask = random_masking(key, (4, 6), 0.75)
    few, more = (draw_predicted(mask, key, count).mask for count in (5, 11))
    assert (few <= more).all()
    assert draw_predicted(mask, key, 18) is mask


def test_all_masked_patches_are_as_likely_whatever_the_mask_drew():
    """The mask's own noise decides nothing: it has another stream of the same key."""
    key = torch.arange(4000)
    mask = random_masking(key, (2, 4), 0.5)
    chosen = draw_predicted(mask, key, 1).mask
    for patch in range(8):
        share = chosen[:, patch][mask.mask[:, patch] == 1].mean().item()
        assert abs(share - 0.25) < 0.03  # 3 standard deviations


@pytest.mark.parametrize(
    ("ratio", "visible", "count"), [(None, 6, 18), (None, 24, 24), (0.25, 6, 6), (0.3, 6, 8)]
)
def test_their_number(ratio, visible, count):
    """Rounded up, as the number of masked patches."""
    assert patches_predicted(model(), visible, ratio) == count


@pytest.mark.parametrize("ratio", [0.6, 0.7, 0.75, 0.9])
def test_the_mask_ratio_itself_predicts_all(ratio):
    objective = MAE(model(), mask_ratio=ratio, predict_ratio=ratio)
    assert objective.predicted == 24 - objective.visible


def test_more_than_are_masked_are_an_error():
    with pytest.raises(ConfigError, match=r"--predict_ratio 0.8 are 20 of 24 .* only 18 are mask"):
        MAE(model(), predict_ratio=0.8)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--predict_ratio 0.25 --ignore_boundary 2", "--ignore_boundary needs the loss of all"),
        ("--predict_ratio 0.25 --mask_ratio 0", "--predict_ratio has no effect with --mask_ratio"),
        ("--weighted_feature_maps", "has no effect without --decoder_attention cross"),
        ("--predict_ratio 1", "--predict_ratio must be between 0 and 1"),
        ("--objective cmae --decoder_attention cross", "--decoder_attention has no effect with"),
    ],
)
def test_flags_without_effect_or_sense(flags, message):
    with pytest.raises(ConfigError, match=message):
        parse_training("fastimae-train", [*RUN, *flags.split()])


def others(rows, image):
    """Return the patches of an image that no loss compares."""
    return [i for i in range(24) if i not in rows.ids_masked[image].tolist()]


def check(objective, batch, expected, state, **given):
    """Compare loss and gradients."""
    loss = objective(batch, **given)["loss"]
    loss.backward()
    expected.backward()
    assert abs(loss.item() - expected.item()) < 2e-6
    for name, parameter in objective.student.named_parameters():
        if parameter.requires_grad:
            theirs = state[name].grad
            torch.testing.assert_close(
                parameter.grad.double(), theirs, rtol=1e-5, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("attention", DECODERS)
def test_mae(make_batch, attention):
    student, batch = model(decoder_attention=attention), make_batch(2, (16, 24))
    objective, state = MAE(student, predict_ratio=0.25), oracle.float64(student.state_dict())
    mask = objective.draw_mask(batch.key)
    rows, losses = draw_predicted(mask, batch.key, 6), []
    for b, (image, seen) in enumerate(zip(batch.images, mask.ids_keep.tolist(), strict=True)):
        x = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        latent = oracle.linear(oracle.encode(x, seen, state, 2), state, "decoder_embed")
        pred = oracle.decode(latent, seen, 24, state, 3)
        losses.append(oracle.pixel_loss(pred, x, others(rows, b), norm_pix=False))
    check(objective, batch, sum(losses) / 2, state)


@pytest.mark.parametrize("space", ["decoder", "encoder"])
@pytest.mark.parametrize("attention", DECODERS)
def test_imae(make_batch, attention, space, monkeypatch):
    """Both images are predicted at the same patches."""
    student = model(decoder_attention=attention, heads=2, head_space=space)
    batch, alpha = make_batch(3, (16, 24)), torch.tensor([0.1, 0.3, 0.5])
    objective, state = IMAE(student, predict_ratio=0.25), oracle.float64(student.state_dict())
    mask = objective.draw_mask(batch)
    rows = draw_predicted(mask, batch.key, 6)
    pixel_loss, images = oracle.pixel_loss, iter(range(6))
    monkeypatch.setattr(
        oracle, "pixel_loss",
        lambda pred, x, _, *rest: pixel_loss(pred, x, others(rows, next(images) // 2), *rest),
    )  # fmt: skip
    parts = oracle.imae_parts(
        batch.images, batch.partner, alpha.double(), mask.ids_keep.tolist(), state, None, patch=4,
        heads=2, decoder_heads=3, mean=student.mean, std=student.std, norm_pix=False,
        head_space=space, teacher_view="clean",
    )  # fmt: skip
    check(objective, batch, sum(parts.values()), state, alpha=alpha)


@pytest.mark.parametrize("view", ["complement", "independent"])
@pytest.mark.parametrize("attention", DECODERS)
def test_rmae(make_batch, attention, view):
    """Both views predict the same patches, which the second one may show."""
    student, batch = model(decoder_attention=attention), make_batch(3, (16, 24))
    objective = RMAE(student, second_view=view, second_mask_ratio=0.5, predict_ratio=0.25)
    state = oracle.float64(student.state_dict())
    first = objective.draw_mask(batch.key)
    second = objective.second.draw_mask(student, batch.key, first)
    rows, losses = draw_predicted(first, batch.key, 6), []
    for b, image in enumerate(batch.images):
        x = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        views = []
        for mask in (first, second):
            seen = mask.ids_keep[b].tolist()
            latent = oracle.linear(oracle.encode(x, seen, state, 2), state, "decoder_embed")
            views.append(oracle.decode(latent, seen, 24, state, 3))
        compared = [i for i in rows.ids_masked[b].tolist() if second.mask[b, i] == 0]
        squares = [((views[0][i] - views[1][i]) ** 2).mean() for i in compared]
        left = [i for i in range(24) if i not in compared]
        losses.append(sum(squares) / max(len(squares), 1) + 0 * views[0].sum())
        losses.append(oracle.pixel_loss(views[1], x, left, norm_pix=False))
    check(objective, batch, sum(losses) / 3, state)


@pytest.mark.parametrize("name", ["mae", "imae", "rmae"])
def test_parts_of_a_batch_add_up(make_batch, name):
    """Two ranks, or micro-batches, predict what one does."""
    student = model(decoder_attention="cross", heads=2 if name == "imae" else 1)
    objective = OBJECTIVES[name].load()(student, predict_ratio=0.25)
    batch = make_batch(4, (16, 24))
    batch.partner.copy_(torch.tensor([1, 0, 3, 2]))
    whole, halves = objective(batch)["loss"], []
    for half in (slice(0, 2), slice(2, 4)):
        part = {n: v[half] for n, v in vars(batch).items() if n in ("images", "labels", "key")}
        fields = {**vars(batch), **part, "partner": torch.tensor([1, 0])}
        halves.append(objective(type(batch)(**fields))["loss"])
    torch.testing.assert_close(sum(halves) / 2, whole)


def test_reciprocal_partners_predict_the_same_patches(make_batch):
    """They share a mask: the two mixtures of a pair at 0.5 are one task, with swapped targets."""
    objective = IMAE(model(heads=2), reciprocal_pairs=True, predict_ratio=0.25)
    batch = make_batch(2, (16, 24))
    batch.partner.copy_(torch.tensor([1, 0]))
    mixed = objective(batch, alpha=torch.tensor([0.5, 0.5]))
    pred, seen = [], objective.student.reconstruction_loss
    objective.student.reconstruction_loss = lambda p, *rest, **more: (
        pred.append(p) or seen(p, *rest, **more)
    )
    assert objective(batch, alpha=torch.tensor([0.5, 0.5]))["loss"] == mixed["loss"]
    torch.testing.assert_close(pred[0][0], pred[0][1])


@pytest.mark.parametrize("name", ["mae", "imae", "rmae"])
def test_pictures_show_every_patch(make_batch, name):
    student = model(decoder_attention="cross", heads=2 if name == "imae" else 1)
    pictures, batch = [], make_batch(2, (16, 24))
    for ratio in (None, 0.25):
        objective = OBJECTIVES[name].load()(student, predict_ratio=ratio)
        pictures.append(objective.reconstruct(batch))
    assert all(torch.equal(pictures[0][title], pictures[1][title]) for title in pictures[0])


def test_an_imae_without_heads_has_no_weighted_feature_maps():
    student = model(decoder_attention="cross", weighted_feature_maps=True)
    with pytest.raises(ConfigError, match="--weighted_feature_maps works with --objective mae and"):
        IMAE(student, disentangle=False)
