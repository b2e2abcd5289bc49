"""masked_l2 without the pixels near visible patches, against loops over pixels in float64."""

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operations import operations

from fastimae.kernels import random_masking, reference
from fastimae.kernels._boundary import boundary
from fastimae.kernels.masked_l2 import masked_l2

IMPLS = ("triton", "torch")
MEAN, STD = (0.4, 0.5, 0.6, 0.3, 0.2), (0.2, 0.25, 0.3, 0.4, 0.1)


def problem(patch, grid, masked=None, channels=3, batch=2, branches=1, unit=1):
    """Make the arguments up to patch_size. masked: patches that are masked; None: 0.6 of them, each
    image its own, in any order."""
    if masked is None:
        drawn = random_masking(torch.arange(batch) * 7919, grid, 0.6, unit).ids_masked
        ids = drawn[:, torch.randperm(drawn.shape[1])]
    else:
        ids = torch.tensor([masked] * batch, dtype=torch.int32).view(batch, -1)
    size = (3, grid[0] * patch, grid[1] * patch, channels)
    pred = torch.randn(branches * batch, ids.shape[1], patch * patch * channels)
    images = torch.randint(0, 256, size, dtype=torch.uint8)
    return pred, images, torch.randint(3, (branches * batch,)), ids, patch


def brute_force(args, ignored, norm_pix, count):
    """Return float64 [n] losses; pred may need a gradient."""
    pred, images, target, ids, patch = args
    _, height, width, channels = images.shape
    losses, every = [], range(height * width // patch**2)
    for b, (rows, image) in enumerate(zip(pred.double(), images[target], strict=True)):
        hidden = ids[b % len(ids)].tolist()
        visible = [i for i in every if i not in hidden]
        far = oracle.far_values(visible, (height, width), patch, channels, ignored)
        patches = oracle.patches_of(oracle.normalised(image, MEAN, STD), patch)
        of_patch = dict(zip(hidden, rows, strict=True))
        losses.append(oracle.pixel_loss(of_patch, patches, visible, norm_pix, far))
    return torch.stack(losses).view(count, -1).mean(1)


def check(args, ignored, impl, norm_pix=True, branches=None, tolerance=1e-5):
    """Compare value and gradient with the brute force, the loss of branch i weighted by i + 0.5."""
    pred, *rest = args
    pred = pred.detach().requires_grad_()
    channels = rest[0].shape[3]
    statistics = MEAN[:channels], STD[:channels], norm_pix
    loss = masked_l2(
        pred, *rest, *statistics, ignore_boundary=ignored, branches=branches, impl=impl
    )
    expected = brute_force((pred, *rest), ignored, norm_pix, branches or 1)
    expected = expected if branches else expected[0]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    weights = torch.arange(branches or 1) + 0.5
    (grad,) = torch.autograd.grad((loss * weights).sum(), pred)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), pred)
    assert grad.dtype == pred.dtype and torch.equal(grad == 0, wanted == 0)
    atol = tolerance * wanted.abs().max().item()
    torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=atol)
    return loss, grad


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize(
    ("patch", "grid", "unit", "ignored"),
    [
        (4, (4, 6), 1, 1),
        (4, (4, 6), 2, 3),
        (4, (6, 4), 2, 4),
        (5, (3, 4), 1, 2),
        (16, (3, 3), 1, 4),
    ],
)
def test_masks_and_widths(impl, norm_pix, patch, grid, unit, ignored):
    check(problem(patch, grid, unit=unit), ignored, impl, norm_pix)


@settings(max_examples=8)
@given(
    patch=st.integers(2, 6),
    grid=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
    branches=st.sampled_from([None, 1, 2, 3]),
    norm_pix=st.booleans(),
    ignored=st.integers(1, 6),
)
def test_ragged_shapes(patch, grid, channels, batch, branches, norm_pix, ignored):
    args = problem(patch, grid, None, channels, batch, branches or 1)
    for impl in IMPLS:
        check(args, min(ignored, patch), impl, norm_pix, branches)


@pytest.mark.parametrize("impl", IMPLS)
def test_more_patches_than_a_block_of_the_kernel(impl):
    check(problem(2, (12, 11), unit=1), 1, impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_low_precision(impl, dtype, tolerance):
    pred, *rest = problem(4, (4, 4), branches=2)
    check((pred.to(dtype), *rest), 1, impl, branches=2, tolerance=tolerance)


@pytest.mark.parametrize("impl", IMPLS)
def test_branches_may_have_masks_of_their_own(impl):
    pred, images, target, ids, patch = problem(4, (4, 4), branches=2)
    check((pred, images, target, torch.cat([ids, ids.flip(0)]), patch), 2, impl, branches=2)
    spread = torch.stack([ids, ids], -1).flatten(1)[:, ::2].long()
    check((pred, images, target, spread, patch), 2, impl, branches=2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("masked", "kept"), [((0, 1, 3, 4), 9), ((4,), 0), (range(9), 36)], ids=str
)
def test_the_border_of_an_image_is_no_boundary(impl, masked, kept):
    """3x3 patches of 2x2, a boundary of one pixel: of four patches in a corner of the image, the
    first keeps four pixels, two keep two, and the last one."""
    _, grad = check(problem(2, (3, 3), list(masked), channels=1, batch=1), 1, impl)
    assert (grad != 0).sum() == kept


@pytest.mark.parametrize("impl", IMPLS)
def test_a_corner_alone_is_near(impl):
    """Only the last of 2x2 patches is visible: of the first, one pixel is diagonal to it."""
    _, grad = check(problem(4, (2, 2), [0, 1, 2], channels=1, batch=1), 1, impl)
    assert (grad[0] == 0).sum(1).tolist() == [1, 4, 4]


@pytest.mark.parametrize("impl", IMPLS)
def test_an_image_that_keeps_nothing_counts_as_zero(impl):
    """A boundary as wide as a patch. Of the first image, the patch in the corner touches no visible
    one; those of the second are alone."""
    pred, images, target, ids, patch = problem(4, (3, 5), [0, 1, 5, 6])
    ids[1] = torch.tensor([2, 4, 10, 12])
    loss, grad = check((pred, images, target, ids, patch), 4, impl)
    assert grad[0, 0].all() and not grad[0, 1:].any() and not grad[1].any()
    first = pred[:1], images, target[:1], ids[:1], patch
    alone = masked_l2(*first, MEAN[:3], STD[:3], True, ignore_boundary=4, impl=impl)
    torch.testing.assert_close(loss, alone / 2)
    loss, grad = check((pred, images, target, ids[1:].repeat(2, 1), patch), 4, impl)
    assert loss == 0 and not grad.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_what_is_left_out_may_even_be_infinite(impl):
    pred, *rest = problem(4, (2, 2), [0, 1, 2], channels=1, batch=1)
    near = (check((pred, *rest), 1, impl)[1] == 0).nonzero()[0]
    pred[tuple(near)] = torch.inf
    pred.requires_grad_()
    loss = masked_l2(pred, *rest, MEAN[:1], STD[:1], True, ignore_boundary=1, impl=impl)
    loss.backward()
    assert loss.isfinite() and pred.grad.isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_batches_average_to_one_large_batch(impl):
    """Although their images keep different numbers of pixels: so do ranks, and accumulation."""
    pred, images, target, ids, patch = problem(4, (4, 4), batch=6)
    pred.requires_grad_()

    def loss(rows):
        args = pred[rows], images, target[rows], ids[rows], patch, MEAN[:3], STD[:3], True
        return masked_l2(*args, ignore_boundary=2, impl=impl)

    whole, parts = loss(slice(None)), [loss(slice(b, b + 2)) for b in (0, 2, 4)]
    torch.testing.assert_close(whole, sum(parts) / 3)
    kept = (torch.autograd.grad(whole, pred, retain_graph=True)[0] != 0).sum((1, 2))
    assert kept.view(3, 2).sum(1).unique().numel() > 1
    a, b = (torch.autograd.grad(x, pred)[0] for x in (whole, sum(parts) / 3))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm_pix", [True, False])
def test_zero_is_the_loss_without_it_in_every_bit(impl, norm_pix):
    pred, *rest = problem(4, (4, 4), branches=2)
    pred.requires_grad_()

    def outcome(**ignored):
        loss = masked_l2(pred, *rest, MEAN[:3], STD[:3], norm_pix, branches=2, impl=impl, **ignored)
        return loss, torch.autograd.grad(loss.sum(), pred)[0]

    for a, b in zip(outcome(), outcome(ignore_boundary=0), strict=True):
        assert torch.equal(a, b)
    names, wider = (operations(lambda k=k: outcome(ignore_boundary=k)) for k in (0, 1))
    assert len(names) < len(wider) and names == operations(outcome)
    assert not boundary(pred, rest[2], rest[0], 4, 0)[0]


@pytest.mark.parametrize("impl", IMPLS)
def test_without_visible_patches_all_count(impl):
    args = problem(4, (2, 3), list(range(6)))
    loss, _ = check(args, 4, impl)
    torch.testing.assert_close(loss, reference.masked_l2(*args, MEAN[:3], STD[:3], True))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_empty_tensors_give_nan_and_an_empty_gradient(impl, shape):
    pred = torch.randn(*shape, 48, requires_grad=True)
    images, target = torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(shape[0]).long()
    args = images, target, torch.zeros(shape).int(), 4, MEAN[:3], STD[:3], True
    loss = masked_l2(pred, *args, ignore_boundary=2, impl=impl)
    loss.backward()
    assert loss.isnan() and pred.grad.shape == pred.shape


@pytest.mark.parametrize("impl", IMPLS)
def test_full_graph(impl):
    pred, *rest = problem(4, (4, 4), branches=2)
    pred.requires_grad_()

    def call(pred):
        return masked_l2(
            pred, *rest, MEAN[:3], STD[:3], True, ignore_boundary=1, branches=2, impl=impl
        )

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    weights = torch.tensor([1.0, 3.0])
    torch.testing.assert_close(compiled(pred), call(pred))
    expected = torch.autograd.grad(call(pred) @ weights, pred)
    torch.testing.assert_close(torch.autograd.grad(compiled(pred) @ weights, pred), expected)


def test_custom_op():
    pred, *rest = problem(4, (4, 4), branches=2)
    for save in (True, False):
        statistics = list(MEAN[:3]), list(STD[:3]), True
        args = (pred.requires_grad_(save), *rest, *statistics, 2, None, 2, save)
        torch.library.opcheck(torch.ops.fastimae.masked_l2.default, args)


def test_the_specification_is_the_brute_force():
    for ignored in (1, 2, 4):
        pred, *rest = problem(4, (4, 6))
        loss = reference.masked_l2(pred, *rest, MEAN[:3], STD[:3], True, ignored)
        torch.testing.assert_close(loss.double(), brute_force((pred, *rest), ignored, True, 1)[0])
