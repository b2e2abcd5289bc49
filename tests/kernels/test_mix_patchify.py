"""mix_patchify: the kernel in Triton's interpreter and the torch implementation, against a loop."""

import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import _pixels, reference
from fastimae.kernels._launch import jit, tl, triton
from fastimae.kernels.mix_patchify import launch_shape, mix_patchify

BOTH = pytest.mark.parametrize("impl", ["triton", "torch"])
# The interpreter truncates to 16 bits where a GPU rounds: one unit in the last place.
RELATIVE = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def statistics(channels):
    """Return a mean and std that differ from channel to channel."""
    places = range(channels)
    return tuple(0.3 + c / 50 for c in places), tuple(0.2 + c / 40 for c in places)


def inputs(batch, patch, grid, channels, keep=None):
    """Make uint8 images, ids in random order, repeated partners, and alphas with 0, 0.5 and 1."""
    patches = grid[0] * grid[1]
    shape = (batch, grid[0] * patch, grid[1] * patch, channels)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    ids = torch.stack([torch.randperm(patches)[: keep or patches] for _ in range(batch)])
    partner = torch.randint(batch, (batch,))
    alpha = torch.cat([torch.tensor([0.0, 0.5, 1.0]), torch.rand(batch)])[:batch]
    return images, ids.int(), partner, alpha


def loop(images, ids, patch, mean, std, partner=None, alpha=None):
    """Compute the specification image by image in float64."""
    if images.dtype == torch.uint8:
        images = [oracle.normalised(image, mean, std) for image in images]
    patches = [oracle.patches_of(image.double(), patch) for image in images]
    own = torch.stack([torch.stack([patches[b][i] for i in row]) for b, row in enumerate(ids)])
    if partner is None:
        return (own,)
    source = partner.tolist()
    other = [torch.stack([patches[source[b]][i] for i in row]) for b, row in enumerate(ids)]
    other, weight = torch.stack(other), alpha.double()[:, None, None]
    return weight * own + (1 - weight) * other, own, other


def assert_streams(got, expected, dtype=torch.float32):
    assert [x.dtype for x in got] == [dtype] * len(expected)
    assert len(got) == len(expected)
    for x, y in zip(got, expected, strict=True):
        assert x.is_contiguous()
        torch.testing.assert_close(x.double(), y, rtol=RELATIVE[dtype], atol=2e-6)


@BOTH
@pytest.mark.parametrize(
    ("patch", "channels", "grid"),
    [
        (2, 3, (2, 3)),
        (3, 1, (2, 2)),
        (3, 13, (1, 2)),
        (4, 3, (3, 2)),
        (4, 4, (2, 1)),
        (14, 3, (2, 1)),
        (16, 3, (1, 2)),
        (16, 1, (2, 1)),
        (32, 3, (1, 1)),
    ],
)
def test_all_streams_of_every_patch_size(impl, patch, channels, grid):
    images, ids, partner, alpha = inputs(3, patch, grid, channels)
    mean, std = statistics(channels)
    expected = loop(images, ids, patch, mean, std, partner, alpha)
    args = (images, ids, patch, mean, std)
    assert_streams(mix_patchify(*args, partner, alpha, impl=impl), expected)
    assert_streams(mix_patchify(*args, partner, alpha, clean=False, impl=impl), expected[:1])
    assert_streams(mix_patchify(*args, impl=impl), expected[1:2])
    for x, y in zip(reference.mix_patchify(*args, partner, alpha), expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-6, atol=2e-6)


VIEWS = {
    "contiguous": lambda x: x,
    "channels first": lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "crop": lambda x: torch.nn.functional.pad(x, (0, 0, 3, 2, 1, 4))[:, 1:-4, 3:-2],
    "some channels": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1:-2],
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "one image, expanded": lambda x: x[:1].expand(x.shape),
}


@BOTH
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("view", VIEWS)
def test_any_strides_and_image_dtypes(impl, dtype, view):
    images, ids, partner, alpha = inputs(4, 4, (2, 3), 3, keep=3)
    if dtype != torch.uint8:
        images = torch.randn(images.shape).to(dtype)
    images = VIEWS[view](images)
    args = (images, ids.long(), 4, *statistics(3), partner, alpha)
    assert_streams(mix_patchify(*args, impl=impl), loop(*args))


@BOTH
@pytest.mark.parametrize("dtype", RELATIVE)
def test_output_dtypes_and_strided_small_arguments(impl, dtype):
    images, ids, partner, _ = inputs(4, 4, (2, 3), 3)
    ids, partner = ids.t().contiguous().t()[:, ::2], partner.repeat_interleave(2)[::2]
    alpha = torch.tensor(0.3, dtype=torch.float64).expand(4)
    args = (images, ids, 4, *statistics(3), partner, alpha)
    expected = loop(*args)
    assert_streams(mix_patchify(*args, dtype=dtype, impl=impl), expected, dtype)


@BOTH
def test_extreme_pixels(impl):
    images, ids, partner, alpha = inputs(4, 2, (2, 2), 3)
    images[:2], images[2:] = 0, 255
    args = (images, ids, 2, (0.0, 1.0, 0.5), (1e-3, 1.0, 1e3), partner, alpha)
    assert_streams(mix_patchify(*args, impl=impl), loop(*args))


@settings(max_examples=15)
@given(
    patch=st.integers(2, 9),
    channels=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_implementations_agree_on_any_shape(patch, channels, grid, batch, seed):
    torch.manual_seed(seed)
    keep = 1 + seed % (grid[0] * grid[1])
    images, ids, partner, alpha = inputs(batch, patch, grid, channels, keep)
    args = (images, ids, patch, *statistics(channels), partner, alpha)
    expected = [x.double() for x in reference.mix_patchify(*args)]
    for impl in ("triton", "torch"):
        assert_streams(mix_patchify(*args, impl=impl), expected)


@BOTH
@pytest.mark.parametrize(("batch", "keep"), [(0, 2), (3, 0)])
def test_empty(impl, batch, keep):
    images = torch.zeros(batch, 4, 4, 3, dtype=torch.uint8)
    ids = torch.zeros(batch, keep, dtype=torch.int32)
    partner, alpha = torch.zeros(batch, dtype=torch.int64), torch.zeros(batch)
    got = mix_patchify(images, ids, 2, *statistics(3), partner, alpha, impl=impl)
    assert [x.shape for x in got] == [(batch, keep, 12)] * 3


def test_gradients_of_float_images_and_alpha_in_torch(caplog):
    _, ids, partner, alpha = inputs(3, 2, (2, 3), 3, keep=4)
    images = torch.randn(3, 3, 4, 6).permute(0, 2, 3, 1).requires_grad_()
    leaves = (images, alpha.requires_grad_())
    args = (images, ids, 2, *statistics(3), partner, alpha)
    weights = torch.randn(3, 3, 4, 12)
    grads = [
        torch.autograd.grad((torch.stack(op(*args)) * weights).sum(), leaves)
        for op in (mix_patchify, reference.mix_patchify)
    ]
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match="require a gradient"):
        mix_patchify(*args, impl="triton")
    with torch.no_grad():
        assert_streams(mix_patchify(*args, impl="triton"), loop(*args))


@pytest.mark.parametrize("mixing", [False, True])
def test_custom_op_is_well_formed(mixing):
    images, ids, partner, alpha = inputs(3, 2, (2, 3), 3)
    pair = (partner, alpha) if mixing else (None, None)
    op = torch.ops.fastimae.mix_patchify.default
    torch.library.opcheck(op, (images, ids, 2, *statistics(3), *pair, mixing, torch.bfloat16))


@BOTH
def test_compiles_inside_an_autograd_graph(impl):
    images, ids, partner, alpha = inputs(3, 2, (2, 3), 3)
    weight = torch.randn(12, 5, requires_grad=True)

    def step(images, ids, partner, alpha):
        streams = mix_patchify(images, ids, 2, *statistics(3), partner, alpha, impl=impl)
        return sum((stream @ weight).square().mean() for stream in streams)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for run in (step, compiled):
        loss = run(images, ids, partner, alpha)
        results.append((loss, *torch.autograd.grad(loss, weight)))
    torch.testing.assert_close(*results)


@BOTH
def test_images_beyond_two_gigabytes(impl, tmp_path):
    # A sparse file takes no memory: only the pages of the small images are touched.
    memory = torch.from_file(str(tmp_path / "sparse"), shared=True, size=2**32, dtype=torch.uint8)
    images = memory.as_strided((4, 4, 4, 3), (2**30, 12, 3, 1))
    images.copy_(torch.randint(0, 256, images.shape, dtype=torch.uint8))
    ids = torch.stack([torch.randperm(4)[:2] for _ in range(4)])
    args = (images, ids, 2, *statistics(3), torch.tensor([3, 0, 1, 2]), torch.rand(4))
    assert_streams(mix_patchify(*args, impl=impl), loop(*args))


@jit
def _offsets_kernel(out_ptr, patch, across, stride_h, stride_w, stride_c, DENSE: tl.constexpr):
    pixel = tl.arange(0, 16)
    offsets = _pixels.pixel_offsets(patch, pixel, across, stride_h, stride_w, stride_c, 2, 4, DENSE)
    tl.store(out_ptr + pixel, offsets)


@pytest.mark.parametrize(
    "strides", [(2**30, 4, 1), (3, 2**30, 2**31 - 1), (7 * 2**33, 2**34, 2**32)]
)
def test_offsets_do_not_wrap_at_32_bits(strides):
    out = torch.zeros(16, dtype=torch.int64)
    _offsets_kernel[(1,)](out, 5, 3, *strides, DENSE=strides[1:] == (4, 1))
    places = [(2 + r, 4 + w, c) for r in range(2) for w in range(2) for c in range(4)]
    assert out.tolist() == [sum(i * s for i, s in zip(x, strides, strict=True)) for x in places]


@pytest.mark.parametrize("patch", range(1, 33))
@pytest.mark.parametrize("channels", [1, 3, 4, 13])
def test_tiles_cover_a_token_exactly(patch, channels):
    for dense, item_size in ((True, 1), (True, 4), (False, 1)):
        parts, chunks, vector = launch_shape(patch, channels, dense, item_size)
        assert patch % parts == 0  # parts are whole rows, as they share the table of scale and bias
        assert patch * patch * channels % (parts * vector) == 0
        assert triton.next_power_of_2(chunks * vector) == chunks * vector
    assert launch_shape(16, 3, True, 1) == (2, 128, 8)
    assert launch_shape(14, 3, True, 1) == (7, 128, 4)


GOOD = {"patch_size": 2, "mean": (0.5,) * 3, "std": (0.2,) * 3}
IDS = torch.zeros(2, 1, dtype=torch.int32)
PAIR = {"partner": torch.tensor([1, 0]), "alpha": torch.rand(2)}


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"images": torch.zeros(2, 4, 6, 3, dtype=torch.float64)}, TypeError, "images must be"),
        ({"images": torch.zeros(2, 4, 6, dtype=torch.uint8)}, ValueError, "images must be"),
        ({"patch_size": 4}, ValueError, "patch_size 4 does not divide images of 4x6"),
        ({"patch_size": 0}, ValueError, "patch_size 0"),
        ({"mean": (0.5,)}, ValueError, "mean and std need a value for each of 3 channels"),
        ({"ids_keep": IDS[:1]}, ValueError, r"ids_keep must be \[2, K\]"),
        ({"ids_keep": IDS.float()}, TypeError, "ids_keep must be int32 or int64"),
        ({"partner": PAIR["partner"]}, ValueError, "partner and alpha belong together"),
        ({"alpha": PAIR["alpha"]}, ValueError, "partner and alpha belong together"),
        ({**PAIR, "alpha": torch.rand(1)}, ValueError, r"alpha must be \[2\]"),
        ({**PAIR, "alpha": torch.ones(2, dtype=torch.int64)}, TypeError, "alpha must be a float"),
        ({**PAIR, "partner": torch.zeros(2)}, TypeError, "partner must be int64"),
        ({"dtype": torch.float64}, TypeError, "dtype must be float32"),
    ],
)
def test_errors_name_the_argument(change, error, match):
    good = {"images": torch.zeros(2, 4, 6, 3, dtype=torch.uint8), "ids_keep": IDS, **GOOD}
    with pytest.raises(error, match=match):
        mix_patchify(**{**good, **change})
