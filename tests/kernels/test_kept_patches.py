"""masked_l2 with `kept`, the patches that count: against loops over patches in float64."""

import oracle
import pytest
import torch

from fastimae.kernels import random_masking, reference
from fastimae.kernels.masked_l2 import masked_l2

IMPLS = ("triton", "torch")
MEAN, STD, PATCH = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), 4


def problem(branches=1, batch=3):
    """Make the arguments up to patch_size, and kept; the first image keeps nothing."""
    ids = random_masking(torch.arange(batch) * 7919, (4, 4), 0.7).ids_masked
    images = torch.randint(0, 256, (batch, 16, 16, 3), dtype=torch.uint8)
    pred = torch.randn(branches * batch, ids.shape[1], PATCH * PATCH * 3, requires_grad=True)
    kept = torch.rand(ids.shape) < 0.6
    kept[0], kept[1:, 0] = False, True
    return (pred, images, torch.randint(batch, (len(pred),)), ids, PATCH), kept


def by_hand(pred, images, target, ids, patch, kept, norm_pix):
    """Return the loss of one branch, float64."""
    losses = []
    for b, rows in enumerate(pred.double()):
        patches = oracle.patches_of(oracle.normalised(images[target[b]], MEAN, STD), patch)
        counted = [m for m in range(len(rows)) if kept[b, m]]
        of_patch = {int(ids[b, m]): rows[m] for m in counted}
        others = [i for i in range(len(patches)) if i not in of_patch]
        losses.append(oracle.pixel_loss(of_patch, patches, others, norm_pix) + 0 * rows.sum())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm_pix", [False, True])
def test_value_and_gradient(impl, norm_pix):
    args, kept = problem()
    loss = masked_l2(*args, MEAN, STD, norm_pix, kept=kept, impl=impl)
    expected = by_hand(*args, kept, norm_pix)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    specified = reference.masked_l2(*args, MEAN, STD, norm_pix, kept=kept)
    torch.testing.assert_close(specified.double(), expected, rtol=1e-5, atol=0)
    got, wanted = (torch.autograd.grad(each, args[0])[0] for each in (loss, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert not got[~kept].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_branches_may_share_it(impl):
    (pred, images, target, ids, patch), kept = problem(branches=2)
    statistics = patch, MEAN, STD, True
    got = masked_l2(pred, images, target, ids, *statistics, kept=kept, branches=2, impl=impl)
    parts = zip(pred.chunk(2), target.chunk(2), strict=True)
    expected = torch.stack([by_hand(p, images, t, ids, patch, kept, True) for p, t in parts])
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_all_kept_is_the_plain_loss_and_none_is_zero(impl):
    args, kept = problem()
    statistics = *args, MEAN, STD, True
    every = masked_l2(*statistics, kept=torch.ones_like(kept), impl=impl)
    torch.testing.assert_close(every, masked_l2(*statistics, impl=impl))
    none = masked_l2(*statistics, kept=torch.zeros_like(kept), impl=impl)
    assert none == 0 and not torch.autograd.grad(none, args[0])[0].any()


def test_custom_op():
    (pred, *rest), kept = problem(branches=2)
    statistics = list(MEAN), list(STD), True
    args = (pred, *rest, *statistics, 0, kept, 2, True)
    torch.library.opcheck(torch.ops.fastimae.masked_l2.default, args)
