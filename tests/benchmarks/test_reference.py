"""The plain pipeline has the same maths, so that beating it means being faster."""

import pytest
import torch

from benchmarks.reference import plain_step
from benchmarks.steps import (
    LAMBDA,
    Case,
    ReferenceLoss,
    float_images,
    make_batch,
    make_objective,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", ["mae", "imae"])
@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("sdpa", [False, True])
def test_loss_and_gradients_are_ours(objective, norm_pix, sdpa):
    case = Case(objective=objective, model="mae_vit_nano_patch8", img_size=32, batch_size=6)
    ours, batch = make_objective(case), make_batch(case)
    ours.student.norm_pix_loss = norm_pix
    mask = ours.draw_mask(batch.key if objective == "mae" else batch)
    loss = ours(batch, mask=mask)["loss"]
    loss.backward()
    plain = ReferenceLoss(case, ours, batch, mask.mask, sdpa=sdpa)
    plain.student.norm_pix_loss = norm_pix
    other = plain(float_images(batch, ours.student))
    other.backward()
    assert loss.item() == pytest.approx(other.item(), rel=1e-5)
    grads = dict(plain.student.named_parameters())
    for name, parameter in ours.student.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad, grads[name].grad, rtol=1e-3, atol=1e-5, msg=name
            )


def test_the_plain_step_trains():
    case = Case(objective="mae", model="mae_vit_nano_patch8", img_size=32, batch_size=8)
    objective, batch = make_objective(case), make_batch(case)
    loss_of = ReferenceLoss(case, objective, batch, torch.rand(8, 16), sdpa=False)
    images = float_images(batch, objective.student)
    before = loss_of(images).item()
    step = plain_step(loss_of.student, loss_of, images)
    for _ in range(10):
        step()
    assert loss_of(images).item() < before


def test_the_mixture_is_the_same():
    case = Case(objective="imae", model="mae_vit_nano_patch8", img_size=32, batch_size=4)
    batch = make_batch(case)
    ratio = make_objective(case).ratio(batch.key, batch.step_key)
    assert ratio.tolist() == pytest.approx([LAMBDA] * 4)
