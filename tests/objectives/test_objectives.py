"""MAE and i-MAE losses against the float64 oracle, and what each option must change."""

import functools

import oracle
import pytest
import torch
from operations import operations
from scipy.stats import beta, kstest

from fastimae import kernels
from fastimae.kernels import Mask
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE, mixing
from fastimae.objectives.mixing import MixRatio

SIZES = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
}  # fmt: skip


def model(heads=1, **overrides):
    return create_model(
        "mae_vit_tiny_patch4", **{"img_size": (12, 16), **SIZES, "heads": heads, **overrides}
    )


def batch_of(make_batch, size=4):
    return make_batch(size, (12, 16))


def test_mae_equals_the_models_loss(make_batch):
    batch, objective = batch_of(make_batch), MAE(model(), mask_ratio=0.6)
    mask = objective.draw_mask(batch.key)
    torch.testing.assert_close(
        objective(batch)["loss"], objective.student(batch.images, mask=mask)[0]
    )


def check_gradients(module, state):
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("head_space", ["decoder", "encoder"])
@pytest.mark.parametrize("teacher_view", ["clean", "mixed", None])
@pytest.mark.parametrize("heads", [2, 1])
def test_imae_equals_the_float64_oracle(make_batch, norm_pix, head_space, teacher_view, heads):
    batch = batch_of(make_batch)
    student = model(heads, norm_pix_loss=norm_pix, head_space=head_space)
    teacher = model() if teacher_view else None
    objective = IMAE(
        student, teacher, teacher_view=teacher_view or "clean", distill_weight=0.7,
        mix_per="sample", mask_ratio=0.6, disentangle=heads == 2,
    )  # fmt: skip
    got = objective(batch)
    got["loss"].backward()

    state = oracle.float64(student.state_dict())
    parts = oracle.imae_parts(
        batch.images, batch.partner, objective.ratio(batch.key, batch.step_key).double(),
        objective.draw_mask(batch).ids_keep.tolist(), state,
        oracle.float64(teacher.state_dict()) if teacher else None,
        patch=4, heads=2, decoder_heads=3, mean=student.mean, std=student.std,
        norm_pix=norm_pix, head_space=head_space, teacher_view=teacher_view,
    )  # fmt: skip
    assert set(got) == {"loss", *parts}
    for name, part in parts.items():
        assert abs(got[name].item() - part.item()) < 1e-6 * max(1, part.item()), name
    loss = sum(part * (0.7 if "latent" in name else 1) for name, part in parts.items())
    assert abs(got["loss"].item() - loss.item()) < 2e-6 * max(1, loss.item())
    loss.backward()
    check_gradients(student, state)
    assert teacher is None or all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("unit", [1, 2])
@pytest.mark.parametrize("ignored", [1, 3])
def test_pixels_near_visible_patches_do_not_count(make_batch, unit, ignored):
    """Against the float64 oracle, which measures the distance of every pixel."""
    batch = make_batch(4, (16, 24))
    student, masking = model(2, img_size=(16, 24)), {"mask_ratio": 0.6, "mask_unit": unit}
    objective = IMAE(student, ignore_boundary=ignored, mix_per="sample", **masking)
    got = objective(batch)
    got["loss"].backward()
    state = oracle.float64(student.state_dict())
    parts = oracle.imae_parts(
        batch.images, batch.partner, objective.ratio(batch.key, batch.step_key).double(),
        objective.draw_mask(batch).ids_keep.tolist(), state, None,
        patch=4, heads=2, decoder_heads=3, mean=student.mean, std=student.std,
        norm_pix=False, head_space="decoder", teacher_view="clean", ignored=ignored,
    )  # fmt: skip
    for name, part in parts.items():
        assert got[name].item() == pytest.approx(part.item(), rel=1e-6), name
    everywhere = IMAE(student, mix_per="sample", **masking)(batch)
    assert abs(everywhere["recon_dominant"] - parts["recon_dominant"]) > 1e-4
    sum(parts.values()).backward()
    check_gradients(student, state)


def test_mae_and_one_target_leave_them_out_too(make_batch):
    """One image mixed with itself is the image: i-MAE's heads, made equal, are MAE's."""
    batch, single, double = batch_of(make_batch), model(), model(2)
    state = single.state_dict()
    for name in ("weight", "bias"):
        of_both = {f"decoder_embed{n}.{name}": state[f"decoder_embed.{name}"] for n in (1, 2)}
        state.update(of_both)
    double.load_state_dict({k: v for k, v in state.items() if "decoder_embed." not in k})
    batch.partner = torch.arange(4)
    loss = MAE(single, ignore_boundary=2)(batch)["loss"]
    for targets in ("both", "subordinate", "dominant"):
        parts = IMAE(double, targets=targets, ignore_boundary=2)(batch)
        for name in parts.keys() - {"loss"}:
            torch.testing.assert_close(parts[name], loss, msg=name)
    assert abs(loss - MAE(single)(batch)["loss"]) > 1e-4


@pytest.mark.parametrize("heads", [2, 1])
@pytest.mark.parametrize("targets", ["subordinate", "dominant"])
def test_one_target_is_that_part_of_both(make_batch, targets, heads):
    batch, student, teacher = batch_of(make_batch), model(heads), model()
    both = IMAE(student, teacher, disentangle=heads == 2)(batch)
    one = IMAE(student, teacher, disentangle=heads == 2, targets=targets)(batch)
    assert set(one) == {"loss", f"recon_{targets}", f"latent_{targets}"}
    for name in set(one) - {"loss"}:
        torch.testing.assert_close(one[name], both[name])
    torch.testing.assert_close(one["loss"], one[f"recon_{targets}"] + one[f"latent_{targets}"])


def test_reciprocal_pairs_share_a_mask_and_cost_one_teacher_pass(make_batch):
    batch = batch_of(make_batch, 6)
    batch.partner = torch.tensor([3, 2, 1, 0, 5, 4])
    student, teacher = model(2), model()
    objective = IMAE(student, teacher, reciprocal_pairs=True)
    mask = objective.draw_mask(batch)
    assert torch.equal(mask.ids_keep, mask.ids_keep[batch.partner])
    passes = []
    teacher.blocks[-1].register_forward_hook(lambda _, args, out: passes.append(len(out[0])))
    got = objective(batch)
    assert passes == [6]
    expected = IMAE(student, teacher)(batch, mask=mask)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value)


@pytest.mark.parametrize("targets", ["both", "subordinate"])
def test_without_heads_one_latent_is_decoded_once_for_all_targets(make_batch, targets):
    batch = batch_of(make_batch)
    objective = IMAE(model(1), disentangle=False, targets=targets)
    decoded = []
    objective.student.decoder_blocks[0].register_forward_hook(
        lambda _, args, out: decoded.append(len(out[0]))
    )
    loss = objective(batch)["loss"]
    loss.backward()
    assert decoded == [4]
    assert all(p.grad is not None for p in objective.student.parameters() if p.requires_grad)
    # As much work as a MAE's step, and one decoder less than with two heads.
    assert objective.train_flops() == MAE(model(1)).train_flops() < IMAE(model(2)).train_flops()
    pictures = objective.reconstruct(batch)
    if targets == "both":
        both = [pictures[f"{name} reconstructed"] for name in ("subordinate", "dominant")]
        assert torch.equal(*both) and not torch.equal(pictures["subordinate"], both[0])


def test_one_head_has_the_same_weights_and_predictions_in_both_spaces(make_batch):
    batch, decoder, encoder = batch_of(make_batch), model(), model(head_space="encoder")
    encoder.load_state_dict(decoder.state_dict())
    mask = MAE(decoder).draw_mask(batch.key)
    for one, other in zip(decoder(batch.images, mask=mask), encoder(batch.images, mask=mask),
                          strict=True):  # fmt: skip
        assert torch.equal(one, other)
    latent = encoder.encode(*encoder.visible_patches(batch.images, mask), mask.ids_keep)
    assert torch.equal(encoder.split(latent)[0], latent)


def test_mask_and_ratio_can_be_passed_in(make_batch):
    batch, student = batch_of(make_batch), model(2)
    masked = torch.ones(4, 12, dtype=torch.bool)
    masked[:, :3] = False
    alpha = torch.zeros(4)  # the mixture is only the partner, so just the order of rows differs
    parts = IMAE(student)(batch, mask=Mask.from_bool(masked), alpha=alpha)
    batch.images, batch.partner = batch.images[batch.partner], torch.arange(4)
    same = IMAE(student)(batch, mask=Mask.from_bool(masked), alpha=torch.full((4,), 0.5))
    torch.testing.assert_close(parts["recon_dominant"], same["recon_dominant"])


@pytest.mark.parametrize("ignored", [0, 2])
def test_loss_is_the_mean_of_its_micro_batches(make_batch, ignored):
    """Even where images differ in how many of their pixels count."""
    batch = batch_of(make_batch, 8)
    objective = IMAE(model(2), model(), ignore_boundary=ignored)
    batch.partner = torch.tensor([1, 2, 3, 0, 5, 6, 7, 4])
    whole = objective(batch)
    halves = []
    for rows in (slice(0, 4), slice(4, 8)):
        half = batch_of(make_batch)
        for name in ("images", "index", "key", "labels"):
            setattr(half, name, getattr(batch, name)[rows])
        half.partner, half.step_key = batch.partner[:4], batch.step_key
        halves.append(objective(half))
    for name, value in whole.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2)


def test_the_teacher_stays_frozen_and_in_evaluation_mode():
    objective = IMAE(model(2), model()).train()
    assert not objective.teacher.training and objective.student.training
    assert not any(p.requires_grad for p in objective.teacher.parameters())


@pytest.mark.parametrize("shape", [0.5, 1.0, 3.0])
def test_ratio_is_beta_distributed(shape):
    keys = torch.arange(20_000) * 104729
    ratio = MixRatio(mix_beta=shape, mix_per="sample")(keys, keys[:1]).double()
    assert ratio.min() >= 0 and ratio.max() <= 0.5
    folded = kstest(ratio.numpy(), lambda x: 2 * beta.cdf(x, shape, shape))
    assert folded.pvalue > 1e-3


def test_ratio_is_one_draw_per_step_or_fixed():
    keys, step = torch.arange(9), torch.tensor([77])
    drawn = MixRatio()(keys, step)
    assert (drawn == drawn[0]).all() and torch.equal(drawn, MixRatio()(keys + 5, step))
    assert not torch.equal(drawn, MixRatio()(keys, step + 1))
    for fixed in (0.7, 0.3, 0.9):
        drawn = torch.full((9,), fixed)
        assert torch.equal(MixRatio(mix_lambda=fixed)(keys, step), torch.minimum(drawn, 1 - drawn))


def test_keys_draw_known_ratios():
    """Otherwise runs could not be repeated."""
    keys = torch.tensor([0, 1, 7919, -(2**40)])
    drawn = MixRatio(mix_per="sample")(keys, keys[:1])
    assert drawn.tolist() == [
        0.13598984479904175, 0.1870749592781067, 0.42984992265701294, 0.2386106699705124,
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize("options", [{}, {"mix_per": "sample"}, {"mix_lambda": 0.3}], ids=str)
def test_a_ratio_is_one_kernel(options, monkeypatch):
    on_triton = functools.partial(kernels.mixing_ratio, impl="triton")
    monkeypatch.setattr(mixing, "mixing_ratio", on_triton)
    ratio, keys = mixing.MixRatio(**options), torch.arange(6)
    names = operations(lambda: ratio(keys, keys[:1]))
    assert len(names) == 1, names


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: IMAE(model(1)), "two heads"),
        (lambda: IMAE(model(2), disentangle=False), "with one head"),
        (lambda: IMAE(model(2), model(2)), "must be a plain MAE"),
        (lambda: IMAE(model(2), model(img_size=16)), "different image size"),
        (lambda: IMAE(model(2), model(decoder_embed_dim=24)), "different decoder width"),
        (
            lambda: IMAE(model(2, head_space="encoder"), model(embed_dim=32)),
            "different encoder width",
        ),
        (lambda: IMAE(model(2), mix_lambda=1.0), "--mix_lambda"),
        (lambda: IMAE(model(2), mix_beta=0.0), "--mix_beta"),
        (lambda: IMAE(model(2), ignore_boundary=5), r"--ignore_boundary 5 is not in 0\.\.4"),
        (lambda: MAE(model(), ignore_boundary=-1), "--ignore_boundary -1 is not in"),
        (
            lambda: MAE(model(), ignore_boundary=4, mask_ratio=0.2),
            "--ignore_boundary 4 leaves no masked pixel",
        ),
    ],
)
def test_what_does_not_fit_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
