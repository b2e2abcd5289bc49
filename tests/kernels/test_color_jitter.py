"""Colour jitter: torchvision's changes in every order, SimSiam's draws, by every implementation."""

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import ColorJitter

from fastimae.kernels import (
    _colors_cpu,
    color_jitter,
    jitter_factors,
    jitter_patchify,
    reference,
    reference_colors,
)
from fastimae.kernels.random_masking import philox

IMPLS = ["torch", "triton"]
BOTH = pytest.mark.parametrize("impl", IMPLS)
EXACT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
STATISTICS = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
# The interpreter truncates to 16 bits where a GPU rounds: one unit in the last place.
RELATIVE = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def pictures(batch=24, side=16):
    """Make noise, the first images black, white, gray, and of pure colours."""
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    flat = [(0, 0, 0), (255, 255, 255), (77, 77, 77), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images[: len(flat)] = torch.tensor(flat, dtype=torch.uint8)[:batch, None, None]
    return images.roll(5, 0)


def every_order(batch=24):
    """Draw factors, with every order, every third sample gray, and some samples unchanged."""
    factors = jitter_factors(torch.arange(batch) * 7919, 0.4)
    factors[:, 4], factors[:, 5] = torch.arange(batch) % 24, torch.arange(batch) % 3 == 0
    return factors


def by_torchvision(image, factors):
    """Change an image [..., 3] in 0..1 by torchvision's functions."""
    *amounts, order, gray = factors.tolist()
    names = ("brightness", "contrast", "saturation", "hue")
    x = image.double().flatten(0, -2).T[..., None]  # [3, N, 1]
    for change in reference_colors.ORDERS[int(order)]:
        x = getattr(TF, f"adjust_{names[change]}")(x, amounts[change])
    return (TF.rgb_to_grayscale(x, 3) if gray else x)[..., 0].T.view(image.shape)


def visible_ids(batch, patches, keep):
    return torch.stack([torch.randperm(patches)[:keep] for _ in range(batch)])


def expected_patches(images, ids, factors, patch):
    """Compute jitter_patchify of an image that has the visible patches only, in float64."""
    patches = reference.patchify(images, patch).double() / 255
    rows = zip(patches, ids, factors, strict=True)
    changed = torch.stack(
        [by_torchvision(each[i.long()].unflatten(-1, (-1, 3)), row) for each, i, row in rows]
    )
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in STATISTICS)
    return ((changed - mean) / std).flatten(2)


@pytest.mark.parametrize("impl", [*IMPLS, "reference"])
def test_images_are_torchvisions_in_every_order(impl):
    images, factors = pictures(), every_order()
    exact = torch.stack(
        [by_torchvision(x / 255, row) for x, row in zip(images, factors, strict=True)]
    )
    options = {"impl": impl} if impl in IMPLS else {}
    got = (color_jitter if options else reference_colors.color_jitter)(images, factors, **options)
    assert got.dtype == torch.uint8
    # Half a level, and what fp32 adds: where float64 is between two bytes, either may be next.
    assert (got.double() - 255 * exact).abs().max() < 0.5 + 1e-3
    assert (got != (255 * exact + 0.5).to(torch.uint8)).sum() < 1e-3 * got.numel()


@pytest.mark.parametrize("impl", [*IMPLS, "reference"])
def test_patches_are_torchvisions_on_an_image_of_the_visible_ones(impl):
    images, factors, ids = pictures(), every_order(), visible_ids(24, 16, 6)
    args, options = (images, ids, factors, 4, *STATISTICS), {"impl": impl} if impl in IMPLS else {}
    got = (jitter_patchify if options else reference_colors.jitter_patchify)(*args, **options)
    expected = expected_patches(images, ids, factors, 4)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=5e-5)


@BOTH
@pytest.mark.parametrize(
    ("side", "patch", "keep", "dtype"),
    [
        (6, 3, 2, torch.float32),
        (28, 14, 4, torch.float16),
        (48, 16, 5, torch.bfloat16),
        (48, 16, 5, torch.float32),
    ],
)
def test_patch_sizes_and_output_dtypes(impl, side, patch, keep, dtype):
    """The last shape is of more than one program each, the last one ragged."""
    images, factors = pictures(3, side), every_order(3)
    ids = visible_ids(3, (side // patch) ** 2, keep).int().repeat_interleave(2, 1)[:, ::2]
    args = (images, ids, factors.repeat(1, 2)[:, :6], patch, *STATISTICS)
    got = jitter_patchify(*args, dtype=dtype, impl=impl)
    assert got.dtype == dtype and got.shape == (3, keep, patch**2 * 3)
    expected = expected_patches(images, ids, factors, patch)
    torch.testing.assert_close(got.double(), expected, rtol=RELATIVE[dtype], atol=5e-5)


VIEWS = {
    "channels first": lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "crop": lambda x: torch.nn.functional.pad(x, (0, 0, 3, 2, 1, 4))[:, 1:-4, 3:-2],
    "some channels": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one image, expanded": lambda x: x[:1].expand(x.shape),
}


@BOTH
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides(impl, view):
    images, factors, ids = VIEWS[view](pictures(2, 8)), every_order(2), visible_ids(2, 4, 2)
    packed = images.contiguous()
    got = color_jitter(images, factors, impl=impl)
    assert got.is_contiguous() and torch.equal(got, color_jitter(packed, factors, impl=impl))
    got, expected = (
        jitter_patchify(x, ids, factors, 4, *STATISTICS, impl=impl) for x in (images, packed)
    )
    assert torch.equal(got, expected)


@BOTH
def test_images_beyond_two_gigabytes(impl, tmp_path):
    # A sparse file takes no memory: only the pages of the small images are touched.
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**32, dtype=torch.uint8)
    images = memory.as_strided((4, 4, 4, 3), (2**30, 12, 3, 1))
    images.copy_(torch.randint(0, 256, images.shape, dtype=torch.uint8))
    factors = every_order(4)
    got = color_jitter(images, factors, impl=impl)
    assert torch.equal(got, color_jitter(images.clone(), factors, impl=impl))


@BOTH
def test_nothing_of_masked_patches_is_seen(impl):
    images, factors, ids = pictures(6, 16), every_order(6), visible_ids(6, 16, 4)
    visible = torch.zeros(6, 16, dtype=torch.bool).scatter_(1, ids, True)[..., None]
    patches = reference.patchify(images, 4)
    other = torch.where(visible, patches, 255 - patches)
    changed = reference.unpatchify(other, (4, 4), 3)
    assert not torch.equal(changed, images)
    args = (ids, factors, 4, *STATISTICS)
    got = [jitter_patchify(x, *args, impl=impl) for x in (images, changed)]
    assert torch.equal(*got)


@BOTH
def test_a_sample_is_the_same_in_any_batch(impl, monkeypatch):
    """On the CPU, samples of an order share blocks."""
    images, factors = pictures(8, 8), every_order(8)
    factors[:, 4] = 7
    together = color_jitter(images, factors, impl=impl)
    alone = [color_jitter(images[i : i + 1], factors[i : i + 1], impl=impl) for i in range(8)]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr(_colors_cpu, "_BLOCK", 3 * 64)
    assert torch.equal(together, color_jitter(images, factors, impl=impl))


@BOTH
def test_without_strength_nothing_changes(impl):
    images, ids = pictures(), visible_ids(24, 16, 6)
    factors = jitter_factors(torch.arange(24), 0.0, impl=impl)
    assert torch.equal(factors[:, :4], torch.tensor([[1.0, 1, 1, 0]]).expand(24, 4))
    assert not factors[:, 5].any() and factors[:, 4].unique().numel() > 5
    assert torch.equal(color_jitter(images, factors, impl=impl), images)
    got = jitter_patchify(images, ids, factors, 4, *EXACT, impl=impl)
    expected = reference.gather_rows(reference.patchify(images, 4), ids) / 255
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.4, 1.5])
def test_draws_are_simsiams(strength):
    factors = jitter_factors(torch.randint(-(2**62), 2**62, (40_000,)), strength).double()
    applied = (factors[:, :4] != torch.tensor([1, 1, 1, 0])).any(1)
    assert abs(applied.double().mean() - 0.8) < 0.01
    assert abs(factors[:, 5].mean() - 0.2) < 0.01
    assert abs(factors[applied, 5].mean() - 0.2) < 0.01
    places = torch.linspace(0, 1, 101, dtype=torch.float64)
    jitter = ColorJitter(strength, strength, strength, strength / 4)
    ranges = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    for drawn, (low, high) in zip(factors[applied].T, ranges, strict=False):
        assert drawn.min() >= low - 1e-6 and drawn.max() <= high + 1e-6
        uniform = low + places * (high - low)
        assert (drawn.quantile(places) - uniform).abs().max() < 0.015 * (high - low)
    orders = factors[:, 4].long().bincount(minlength=24)
    assert len(orders) == 24 and (orders / 40_000 - 1 / 24).abs().max() < 0.005
    correlation = torch.corrcoef(factors[applied].T)
    assert (correlation - torch.eye(6)).abs().max() < 0.03


@BOTH
def test_factors_follow_from_key_and_view_alone(impl):
    keys = torch.randint(-(2**62), 2**62, (300,))  # more than two programs, the last ragged
    for view in (0, 1):
        together = jitter_factors(keys, 0.4, view=view, impl=impl)
        assert torch.equal(
            jitter_factors(keys.flip(0), 0.4, view=view, impl=impl).flip(0), together
        )
        alone = jitter_factors(keys[7:8].expand(2), 0.4, view=view, impl=impl)
        assert torch.equal(alone, together[7:8].expand(2, 6))


def test_views_are_independent():
    keys = torch.randint(-(2**62), 2**62, (20_000,))
    views = torch.cat([jitter_factors(keys, 0.4, view=view) for view in range(3)], 1)
    assert (torch.corrcoef(views.T) - torch.eye(18)).abs()[:, :6][6:].max() < 0.03
    masks = philox(keys, torch.zeros_like(keys))[0].double()
    both = torch.cat([views, masks[:, None]], 1)
    assert torch.corrcoef(both.T)[-1, :-1].abs().max() < 0.03


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.5])
def test_triton_draws_the_same(strength):
    keys = torch.randint(-(2**62), 2**62, (600,))[::2]
    got, expected = (jitter_factors(keys, strength, view=3, impl=impl) for impl in IMPLS)
    torch.testing.assert_close(got, expected, rtol=0, atol=2.4e-7)
    assert torch.equal(got[:, 4:], expected[:, 4:])


@BOTH
@pytest.mark.parametrize(("batch", "keep"), [(0, 2), (3, 0)])
def test_empty(impl, batch, keep):
    images, ids = pictures(batch, 4), torch.zeros(batch, keep, dtype=torch.int32)
    factors = jitter_factors(torch.arange(batch), 0.4, impl=impl)
    got = jitter_patchify(images, ids, factors, 2, *STATISTICS, impl=impl)
    assert factors.shape == (batch, 6) and got.shape == (batch, keep, 12)
    assert color_jitter(images, factors, impl=impl).shape == images.shape


@pytest.mark.parametrize("triton_kernel", [False, True])
def test_custom_ops_are_well_formed(triton_kernel):
    images, factors, ids = pictures(3, 4), every_order(3), visible_ids(3, 4, 2)
    op = torch.ops.fastimae.change_colors.default
    torch.library.opcheck(op, (images, None, factors, 1, (), (), torch.uint8, triton_kernel))
    some = (images, ids, factors, 2, *STATISTICS, torch.bfloat16, triton_kernel)
    torch.library.opcheck(op, some)
    torch.library.opcheck(torch.ops.fastimae.jitter_factors.default, (torch.arange(3), 0.4, 1))


@BOTH
def test_compiles_inside_an_autograd_graph(impl):
    images, ids, keys = pictures(2, 4), visible_ids(2, 4, 2), torch.arange(2)
    weight = torch.randn(12, 5, requires_grad=True)

    def step(images, ids, keys):
        whole = color_jitter(images, jitter_factors(keys, 0.4, impl=impl), impl=impl)
        factors = jitter_factors(keys, 0.4, view=1, impl=impl)
        patches = jitter_patchify(whole, ids, factors, 2, *STATISTICS, impl=impl)
        return (patches @ weight).square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    losses = [run(images, ids, keys) for run in (step, compiled)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, weight) for loss in losses))


@pytest.mark.parametrize("options", [{"strength": -0.1}, {"strength": 0.4, "view": -1}])
def test_negative_strengths_and_views_are_refused(options):
    with pytest.raises(ValueError, match="of colour jitter must not be < 0"):
        jitter_factors(torch.arange(2), **options)
