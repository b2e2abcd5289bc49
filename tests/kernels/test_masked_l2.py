"""masked_l2: Triton's interpreter and the torch implementation against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import reference
from fastimae.kernels.masked_l2 import masked_l2

IMPLS = ("triton", "torch")
# The interpreter truncates bf16 stores: one unit in the last place of the saved difference.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
MEAN, STD = (0.4, 0.5, 0.6, 0.3, 0.2), (0.2, 0.25, 0.3, 0.4, 0.1)


def problem(patch, grid=(2, 3), channels=3, batch=3, images=4, masked=None, branches=1):
    """Make the arguments up to patch_size: random rows, ids and targets, different for each row."""
    down, across = grid
    count = down * across
    masked = max(1, 3 * count // 4) if masked is None else masked
    pixels = torch.randint(0, 256, (images, down * patch, across * patch, channels))
    ids = torch.stack([torch.randperm(count)[:masked] for _ in range(batch)]).int()
    target = torch.randint(images, (branches * batch,))
    pred = torch.randn(branches * batch, masked, patch * patch * channels)
    return pred, pixels.to(torch.uint8), target, ids, patch


def check(args, impl, norm_pix=True, branches=None, value=1e-6, gradient=None):
    """Compare value and gradient with the reference, the loss of branch i weighted by i + 0.5."""
    pred, images, target, ids, patch = args
    pred = pred.detach().requires_grad_()
    channels = images.shape[3]
    statistics = (MEAN[:channels], STD[:channels], norm_pix)
    loss = masked_l2(pred, images, target, ids, patch, *statistics, branches=branches, impl=impl)
    count = branches or 1
    rows = zip(pred.chunk(count), target.chunk(count), strict=True)
    ids = ids.repeat(len(pred) // len(ids), 1).chunk(count)
    expected = torch.stack(
        [
            reference.masked_l2(x, images, own, hidden, patch, *statistics)
            for (x, own), hidden in zip(rows, ids, strict=True)
        ]
    )
    expected = expected if branches else expected[0]
    assert loss.dtype == torch.float32 and loss.shape == expected.shape
    torch.testing.assert_close(loss, expected, rtol=value, atol=0)
    weights = torch.arange(count) + 0.5
    (grad,) = torch.autograd.grad((loss * weights).sum(), pred)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), pred)
    assert grad.dtype == pred.dtype
    tolerance = gradient or TOLERANCE[pred.dtype]
    torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("patch", [2, 3, 4, 8, 14, 16, 32])
def test_patch_sizes(impl, norm_pix, patch):
    check(problem(patch), impl, norm_pix)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dtypes_and_channels(impl, dtype):
    for channels in (1, 2, 3, 5):
        pred, *rest = problem(4, channels=channels, branches=2)
        check((pred.to(dtype), *rest), impl, branches=2)


@settings(max_examples=12)
@given(
    patch=st.integers(2, 9),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
    branches=st.sampled_from([None, 1, 2, 3]),
    norm_pix=st.booleans(),
)
def test_ragged_shapes(patch, grid, channels, batch, branches, norm_pix):
    args = problem(patch, grid, channels, batch, branches=branches or 1)
    for impl in IMPLS:
        check(args, impl, norm_pix, branches, value=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("level", [0, 200, 255])
def test_flat_patches(impl, level):
    """Their variance is zero: only eps keeps targets finite, and it amplifies rounding by 1000."""
    for channels in (1, 3):
        pred, images, *rest = problem(16, channels=channels)
        check((pred, images.fill_(level), *rest), impl, value=1e-4, gradient=1e-3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),  # NCHW
        lambda x: torch.cat([x, x], 2)[:, :, : x.shape[2]],  # a crop
        lambda x: x[:, :, :, 1:],
        lambda x: x.flip(0).repeat_interleave(2, 0)[::2],
        lambda x: x[:1].expand_as(x),
    ],
)
def test_strided_images(impl, view):
    pred, images, target, ids, patch = problem(4, channels=4)
    images = view(images)
    pred = pred[..., : patch * patch * images.shape[3]]
    check((pred, images, target, ids, patch), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_predictions_ids_and_targets(impl):
    pred, images, target, ids, patch = problem(4)
    pred = torch.cat([pred, pred], 1)[:, : pred.shape[1]]
    wide = torch.cat([ids, ids], 1)[:, : ids.shape[1]]
    check((pred, images, target.repeat_interleave(2)[::2], wide, patch), impl)
    spread = torch.stack([ids, ids], -1).flatten(1)[:, ::2].long()
    check((pred, images, target.int(), spread, patch), impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_float_images_are_treated_as_normalised(impl, dtype):
    pred, images, *rest = problem(4)
    check((pred, torch.randn(images.shape).to(dtype), *rest), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_branches_share_ids_or_have_separate_ones(impl):
    args = problem(4, batch=2, branches=2)
    check(args, impl, branches=2)
    pred, images, target, ids, patch = args
    check((pred, images, target, torch.cat([ids, ids.flip(0)]), patch), impl, branches=2)


@pytest.mark.parametrize("impl", IMPLS)
def test_stride_zero_gradient(impl):
    pred, *rest = problem(4, batch=1, branches=2)
    pred.requires_grad_()
    statistics = (MEAN[:3], STD[:3], True)
    losses = masked_l2(pred, *rest, *statistics, branches=2, impl=impl)
    (grad,) = torch.autograd.grad(losses, pred, torch.tensor(3.0).expand(2))
    loss = masked_l2(pred, *rest[:2], rest[2].repeat(2, 1), rest[3], *statistics, impl=impl)
    torch.testing.assert_close(grad, torch.autograd.grad(6 * loss, pred)[0])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("empty", [{"batch": 0}, {"masked": 0}])
def test_empty_tensors_give_nan_and_an_empty_gradient(impl, empty):
    patch, count = 4, {"batch": 3, "masked": 4} | empty
    pred = torch.randn(count["batch"], count["masked"], 48, requires_grad=True)
    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    target = torch.zeros(count["batch"], dtype=torch.int64)
    ids = torch.zeros(count["batch"], count["masked"], dtype=torch.int32)
    loss = masked_l2(pred, images, target, ids, patch, MEAN[:3], STD[:3], True, impl=impl)
    assert loss.isnan()
    loss.backward()
    assert pred.grad.shape == pred.shape


@pytest.mark.parametrize("impl", IMPLS)
def test_full_graph(impl):
    pred, *rest = problem(4, batch=2, branches=2)
    pred.requires_grad_()

    def call(pred):
        return masked_l2(pred, *rest, MEAN[:3], STD[:3], True, branches=2, impl=impl)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    weights = torch.tensor([1.0, 3.0])
    expected = torch.autograd.grad(call(pred) @ weights, pred)
    torch.testing.assert_close(torch.autograd.grad(compiled(pred) @ weights, pred), expected)


def test_custom_op():
    pred, *rest = problem(4, batch=2, branches=2)
    for save in (True, False):
        args = (pred.requires_grad_(save), *rest, list(MEAN[:3]), list(STD[:3]), True)
        args += (0, None, 2, save)
        torch.library.opcheck(torch.ops.fastimae.masked_l2.default, args)


def test_no_difference_is_kept_without_gradients():
    pred, *rest = problem(4)
    args = (*rest, list(MEAN[:3]), list(STD[:3]), True, 0, None, 1)
    loss, difference, _ = torch.ops.fastimae.masked_l2(pred, *args, False)
    again, kept, _ = torch.ops.fastimae.masked_l2(pred, *args, True)
    assert torch.equal(loss, again) and not difference.numel() and kept.shape == pred.shape


def test_patches_too_large_for_registers_run_in_torch():
    pred, *rest = problem(32, grid=(1, 2), channels=25, batch=1, images=1)
    args = (pred, rest[0].float(), *rest[1:], [0.0] * 25, [1.0] * 25, True)
    with pytest.raises(ValueError, match="a patch has more than 24576 values"):
        masked_l2(*args, impl="triton")
    torch.testing.assert_close(masked_l2(*args), reference.masked_l2(*args))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": torch.zeros(3, 4, 47)}, r"pred must be \[B, M, 48\], not \[3, 4, 47\]"),
        ({"target": torch.zeros(2, dtype=torch.int64)}, r"target must be \[3\], not \[2\]"),
        ({"ids_masked": torch.zeros(3, 5, dtype=torch.int32)}, r"ids_masked must be \[3, 4\]"),
        ({"ids_masked": torch.zeros(3, 4)}, "ids_masked must be int32 or int64"),
        ({"branches": 2}, r"2 branches do not divide a tensor of \[3, 4, 48\]"),
        ({"patch_size": 5}, "patch_size 5 does not divide images of 8x12"),
        ({"mean": (0.5,)}, "mean and std need a value for each of 3 channels"),
        ({"impl": "cuda"}, "impl='cuda'"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    pred, images, target, ids, patch = problem(4)
    args = {
        "pred": pred, "images": images, "target": target, "ids_masked": ids, "patch_size": patch,
        "mean": MEAN[:3], "std": STD[:3], "norm_pix": True,
    }  # fmt: skip
    with pytest.raises((ValueError, TypeError), match=message):
        masked_l2(**{**args, **change})
