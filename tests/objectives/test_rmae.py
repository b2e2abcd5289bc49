"""R-MAE against equations 5 to 8 of the paper in float64, and what its views and weight change."""

import oracle
import pytest
import torch

from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.kernels import Mask, reference
from fastimae.kernels.color_jitter import jitter_factors
from fastimae.models import create_model
from fastimae.objectives import RMAE
from fastimae.objectives.second_view import second_key
from fastimae.objectives.settings import PixelSettings
from fastimae.settings import ConfigError

SIZES = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
}  # fmt: skip
RUN = ("--objective", "rmae", "--synthetic", "--output_dir", "runs/rmae")
VIEWS = ("complement", "independent", "full")


def model(**overrides):
    return create_model("mae_vit_tiny_patch4", **{"img_size": (16, 24), **SIZES, **overrides})


def batch_of(make_batch, size=4):
    return make_batch(size, (16, 24))


def masks(objective, batch):
    first = objective.draw_mask(batch.key)
    return first, objective.second.draw_mask(objective.student, batch.key, first)


def equation_8(batch, first, second, state, student):
    """Return the two terms of equation 8, with phi = phi', in float64.

    f is encoder and projection, d the decoder; T1 and T2 are the patches visible in the masks
    (equation 6), and (1 - M), what the first one hides, as far as the second one shows it.
    """
    distances, constraints = [], []
    for image, hidden, shown in zip(batch.images, first.mask, second.mask == 0, strict=True):
        x = oracle.patches_of(oracle.normalised(image, student.mean, student.std), 4)
        seen = [torch.where(hidden == 0)[0].tolist(), torch.where(shown)[0].tolist()]
        d = []
        for ids in seen:
            z = oracle.linear(oracle.encode(x, ids, state, 2), state, "decoder_embed")
            d.append(oracle.decode(z, ids, len(x), state, 3))
        compared = [i for i in seen[1] if i not in seen[0]]
        squares = [((d[0][i] - d[1][i]) ** 2).mean() for i in compared]
        distances.append(sum(squares) / max(len(squares), 1) + 0 * d[0].sum())
        others = [i for i in range(len(x)) if i not in compared]
        constraints.append(oracle.pixel_loss(d[1], x, others, student.norm_pix_loss))
    return sum(distances) / len(distances), sum(constraints) / len(constraints)


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize(
    ("view", "ratios"),
    [
        ("complement", {"mask_ratio": 0.6}),
        ("independent", {"mask_ratio": 0.6, "second_mask_ratio": 0.25}),
        # Of some images the second view shows nothing that the first one hides.
        ("independent", {"mask_ratio": 0.2, "second_mask_ratio": 0.8}),
        ("full", {"mask_ratio": 0.6}),
    ],
)
def test_equation_8(make_batch, view, ratios, unit, norm_pix):
    batch, student = batch_of(make_batch, 3), model(norm_pix_loss=norm_pix)
    objective = RMAE(student, second_view=view, mask_unit=unit, constraint_weight=0.7, **ratios)
    got = objective(batch)
    got["loss"].backward()
    state = oracle.float64(student.state_dict())
    distance, constraint = equation_8(batch, *masks(objective, batch), state, student)
    expected = {
        "loss": distance + 0.7 * constraint,
        "distance": distance,
        "constraint": constraint,
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        assert abs(got[name].item() - value.item()) < 1e-6 * max(1, value.item()), name
    expected["loss"].backward()
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("unit", [1, 2])
def test_the_complement_shows_what_the_first_view_hides(make_batch, unit):
    objective = RMAE(model(), mask_unit=unit)
    first, second = masks(objective, batch_of(make_batch))
    assert torch.equal(second.ids_keep, first.ids_masked)
    expected = Mask.from_bool(first.mask == 0)
    assert all(torch.equal(one, other) for one, other in zip(second, expected, strict=True))


def test_an_independent_view_shows_its_share_of_what_the_first_one_hides():
    objective = RMAE(model(), second_view="independent")
    key = torch.arange(500) * 7919
    first = objective.draw_mask(key)
    second = objective.second.draw_mask(objective.student, key, first)
    assert second.ids_masked.shape[1] == 6  # a quarter of 24
    kept = objective.second.shown(first, second)
    for b in range(500):
        assert torch.equal(first.ids_masked[b][kept[b]], _shared(first.mask[b], second.mask[b]))
    assert kept.float().mean() == pytest.approx(0.75, abs=0.01)
    assert len(second_key(torch.arange(-5000, 5000)).unique()) == 10000


def _shared(first, second):
    return torch.where((first == 1) & (second == 0))[0].int()


@pytest.mark.parametrize("view", VIEWS)
def test_a_samples_terms_do_not_depend_on_its_batch(make_batch, view):
    batch, objective = batch_of(make_batch), RMAE(model(), second_view=view)
    whole = objective(batch)
    parts = []
    for i in range(4):
        one = batch_of(make_batch, 1)
        one.images, one.key = batch.images[i : i + 1], batch.key[i : i + 1]
        parts.append(objective(one))
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts) / 4, value, msg=name)


@pytest.mark.parametrize("view", VIEWS)
def test_the_constraint_is_an_autoencoder_of_the_second_view(make_batch, view):
    batch, student = batch_of(make_batch), model(norm_pix_loss=True)
    objective = RMAE(student, second_view=view)
    first, second = masks(objective, batch)
    (patches_BKV,) = student.visible_patches(batch.images, second)
    (head_BNE,) = student.split(student.encode(patches_BKV, second.ids_keep))
    pred_BLV = student.decode(head_BNE, second)
    pixels = reference.normalise(reference.patchify(batch.images, 4), student.mean, student.std)
    error_BL = (pred_BLV - reference.normalise_patches(pixels)).square().mean(-1)
    counted_BL = (first.mask == 1) & (second.mask == 0)
    expected = ((error_BL * counted_BL).sum(1) / counted_BL.sum(1)).mean()
    torch.testing.assert_close(objective(batch)["constraint"], expected)


def trained(batch, weight):
    """Return the terms before and after 60 steps on one batch, with this weight lambda."""
    torch.manual_seed(0)
    objective = RMAE(model(), constraint_weight=weight)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    first = objective(batch)
    for _ in range(60):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    return first, objective(batch)


def test_without_the_constraint_the_distance_collapses(make_batch):
    """Section 2: the constraint keeps the projection informative, and the measure from collapse."""
    batch = batch_of(make_batch, 8)
    batch.images[:] = torch.randint(0, 256, (8, 1, 1, 3))  # an image is one colour: easily learned
    first, collapsed = trained(batch, 0.0)
    assert collapsed["distance"] < 0.002 * first["distance"]
    assert collapsed["constraint"] > 0.7 * first["constraint"]
    first, informative = trained(batch, 1.0)
    assert informative["constraint"] < 0.2 * first["constraint"]
    assert informative["distance"] > 10 * collapsed["distance"]


@pytest.mark.parametrize("view", VIEWS)
def test_bf16(make_batch, view):
    batch, objective = batch_of(make_batch), RMAE(model(norm_pix_loss=True), second_view=view)
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        parts = objective(batch)
    parts["loss"].backward()
    for name, value in exact.items():
        assert parts[name].dtype == torch.float32
        torch.testing.assert_close(parts[name], value, rtol=0.05, atol=0, msg=name)
    assert all(p.grad.isfinite().all() for p in objective.parameters() if p.requires_grad)


@pytest.mark.parametrize("view", VIEWS)
def test_pictures(make_batch, view):
    batch, objective = batch_of(make_batch), RMAE(model(), second_view=view)
    first, second = masks(objective, batch)
    pictures = objective.reconstruct(batch)
    patches = {name: reference.patchify(x, 4) for name, x in pictures.items()}
    images, hidden = patches["input"], first.mask == 1
    for name in ("reconstruction", "from the second view"):
        assert torch.equal(patches[name][~hidden], images[~hidden])
        assert not torch.equal(patches[name][hidden], images[hidden])
    for name, mask in (("masked", first), ("second view", second)):
        shown = mask.mask == 0
        assert torch.equal(patches[name][shown], images[shown])
        assert (patches[name][~shown] == 128).all()


def test_both_views_have_a_jitter_of_their_own(make_batch):
    """After the mask, as the paper's C-MAE; the constraint's targets keep their colours."""
    batch, student, seen = batch_of(make_batch), model(), []
    visible_patches = student.visible_patches

    def record(images, mask, jitter):
        seen.append(jitter)
        assert torch.equal(images, batch.images)
        return visible_patches(images, mask, jitter=jitter)

    student.visible_patches = record
    pixels = PixelSettings(color_jitter=0.4, color_jitter_on="visible")
    RMAE(student, pixels=pixels)(batch)
    for view, factors in enumerate(seen):
        assert torch.equal(factors, jitter_factors(batch.key, 0.4, view=view))
    assert len(seen) == 2 and not torch.equal(*seen)


def test_settings_without_effect_are_refused():
    with pytest.raises(ConfigError, match="--second_mask_ratio has no effect without"):
        parse_training("fastimae-train", [*RUN, "--second_mask_ratio", "0.5"])
    drawn = [*RUN, "--second_view", "independent", "--second_mask_ratio", "0.5"]
    assert flatten(parse_training("fastimae-train", drawn))["second_mask_ratio"] == 0.5
