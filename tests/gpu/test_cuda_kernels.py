"""The Triton kernels on a real GPU against their specification, at real and ragged shapes."""

import functools
import math

import pytest
import torch

from fastimae import kernels
from fastimae.kernels import _attention_tile as kernel
from fastimae.kernels import reference, reference_colors
from fastimae.kernels._attention_choice import Pass, tile_of
from fastimae.kernels.mixing_ratio import LEVELS
from fastimae.kernels.rows import masked_rows, visible_rows
from fastimae.kernels.spread_rows import spread_rows
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import IMAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STATISTICS = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZES = [(224, 16, 8), (224, 14, 3), (32, 2, 5), (36, 4, 7), (64, 32, 2)]
"""Side, patch, batch."""
NORMS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Relative distance of norms that rounding explains."""


def close(got, expected, dtype):
    distance = (got.double() - expected.double()).norm()
    assert got.isfinite().all() and distance <= NORMS[dtype] * expected.double().norm()


def drawn(batch, side, patch):
    grid = (side // patch, side // patch)
    return kernels.random_masking(torch.arange(batch, device="cuda") * 7919, grid, 0.75)


def images(batch, side):
    return torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device="cuda")


@pytest.mark.parametrize(("grid", "unit"), [((14, 14), 1), ((8, 12), 2), ((64, 64), 1)])
def test_masks_are_the_cpus(grid, unit):
    keys = torch.randint(-(2**62), 2**62, (300,))
    expected = kernels.random_masking(keys, grid, 0.75, unit)
    got = kernels.random_masking(keys.cuda(), grid, 0.75, unit, impl="triton")
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, got, strict=True))


def test_mixing_ratios_are_the_cpus():
    """The position between two quantiles is bit-equal, the interpolated value up to rounding."""
    keys = torch.randint(-(2**62), 2**62, (300,))
    places = torch.arange(LEVELS + 1)
    zigzag, squares = (places % 2).float(), (places / LEVELS).square()
    for quantiles, rounding in ((zigzag, 0), (squares, 1.2e-7)):
        expected = kernels.mixing_ratio(keys, quantiles)
        got = kernels.mixing_ratio(keys.cuda(), quantiles.cuda(), impl="triton").cpu()
        torch.testing.assert_close(got, expected, rtol=0, atol=rounding)


def test_jitter_factors_are_the_cpus():
    keys = torch.randint(-(2**62), 2**62, (300,))
    expected = kernels.jitter_factors(keys, 0.4, view=1)
    got = kernels.jitter_factors(keys.cuda(), 0.4, view=1, impl="triton").cpu()
    torch.testing.assert_close(got, expected, rtol=0, atol=2.4e-7)
    assert torch.equal(got[:, 4:], expected[:, 4:])  # the order, and whether it is gray


def jitter(batch):
    """Draw factors, with every order among them."""
    factors = kernels.jitter_factors(torch.arange(batch, device="cuda"), 0.4)
    factors[:, 4] = torch.arange(batch, device="cuda") % 24
    return factors


@pytest.mark.parametrize("side", [224, 30])
def test_color_jitter(side):
    pictures, factors = images(48, side), jitter(48)
    pictures[0], pictures[1] = 0, 255
    got = kernels.color_jitter(pictures, factors, impl="triton").int()
    distance = (got - reference_colors.color_jitter(pictures, factors)).abs()
    assert distance.max() <= 1 and distance.sum() < 1e-3 * distance.numel()
    first = kernels.color_jitter(pictures.permute(0, 2, 1, 3), factors, impl="triton")
    assert (first.permute(0, 2, 1, 3).int() - got).abs().max() <= 1


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize(("side", "patch", "batch"), SIZES)
def test_jitter_patchify(side, patch, batch, dtype):
    ids, pictures, factors = drawn(batch, side, patch).ids_keep, images(batch, side), jitter(batch)
    args = pictures, ids, factors, patch, *STATISTICS
    got = kernels.jitter_patchify(*args, dtype=dtype, impl="triton")
    close(got, reference_colors.jitter_patchify(*args), dtype)
    assert torch.equal(got, kernels.jitter_patchify(*args, dtype=dtype, impl="triton"))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("take", [visible_rows, masked_rows])
def test_gradients_of_rows_are_the_cpus(take, compiled):
    mask = drawn(9, 224, 16)
    x = torch.randn(9, 197, 512, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    rows = (torch.compile(take, fullgraph=True) if compiled else take)(x, mask)
    weights = torch.randn_like(rows)
    (got,) = torch.autograd.grad(rows, x, weights)
    host = x.detach().cpu().requires_grad_()
    expected = take(host, kernels.Mask(*(part.cpu() for part in mask)))
    assert torch.equal(rows.cpu(), expected)
    assert torch.equal(got.cpu(), torch.autograd.grad(expected, host, weights.cpu())[0])


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize(("side", "patch", "batch"), SIZES)
def test_mix_patchify(side, patch, batch, dtype):
    ids, pictures = drawn(batch, side, patch).ids_keep, images(batch, side)
    mixing = torch.arange(batch, device="cuda").roll(1), torch.rand(batch, device="cuda")
    args = pictures, ids, patch, *STATISTICS, *mixing
    got = kernels.mix_patchify(*args, dtype=dtype, impl="triton")
    for one, expected in zip(got, reference.mix_patchify(*args), strict=True):
        close(one, expected, dtype)


@pytest.mark.parametrize("dtype", NORMS)
def test_mix_patchify_of_float_images(dtype):
    """As other code passes them: normalised, channels first."""
    ids = drawn(3, 64, 16).ids_keep
    floats = torch.randn(3, 3, 64, 64, device="cuda", dtype=dtype).permute(0, 2, 3, 1)
    args = floats, ids, 16, *STATISTICS
    (got,) = kernels.mix_patchify(*args, dtype=dtype, impl="triton")
    close(got, reference.mix_patchify(*args)[0], dtype)


def test_pixels_beyond_two_gigabytes():
    """Addresses must have 64 bits."""
    count = 2**31 // (224 * 224 * 3) + 2
    pictures = torch.zeros(count, 224, 224, 3, dtype=torch.uint8, device="cuda")
    pictures[-1] = images(1, 224)[0]
    ids = drawn(count, 224, 16).ids_keep
    (got,) = kernels.mix_patchify(pictures, ids, 16, *STATISTICS, impl="triton")
    (expected,) = reference.mix_patchify(pictures[-1:], ids[-1:], 16, *STATISTICS)
    close(got[-1:], expected, torch.float32)


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("share", [0, 0.25, 1], ids="boundary {}".format)
@pytest.mark.parametrize(("side", "patch", "batch"), SIZES)
def test_masked_l2(side, patch, batch, share, norm_pix, dtype):
    """share: how much of a patch's side --ignore_boundary leaves out."""
    ids, pictures = drawn(batch, side, patch).ids_masked, images(batch, side)
    own = torch.arange(batch, device="cuda")
    target = torch.cat([own, own.roll(1)])
    pred = torch.randn(2 * batch, ids.shape[1], patch**2 * 3, device="cuda", dtype=dtype)
    pred.requires_grad_()
    args, ignored = (ids, patch, *STATISTICS, norm_pix), math.ceil(share * patch)
    got = kernels.masked_l2(
        pred, pictures, target, *args, ignore_boundary=ignored, branches=2, impl="triton"
    )
    weights = torch.tensor([1.0, 3.0], device="cuda")
    (gradient,) = torch.autograd.grad(got, pred, weights)
    parts = zip(pred.chunk(2), target.chunk(2), strict=True)
    losses = [reference.masked_l2(p, pictures, t, *args, ignored) for p, t in parts]
    expected = torch.stack(losses)
    close(got, expected, torch.float32)
    close(gradient, torch.autograd.grad(expected, pred, weights)[0], dtype)


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize("width", [512, 100])
def test_assemble_tokens(width, dtype):
    mask = drawn(9, 224, 16)
    keep, patches = mask.ids_keep.shape[1], mask.mask.shape[1]
    x = torch.randn(9, 1 + keep, width, device="cuda", dtype=dtype, requires_grad=True)
    token = torch.randn(1, 1, width, device="cuda", requires_grad=True)
    positions = torch.randn(1, 1 + patches, width, device="cuda", requires_grad=True)
    leaves = x, token, positions
    got = kernels.assemble_tokens(*leaves, mask.ids_restore, impl="triton")
    expected = reference.assemble_tokens(*leaves, mask.ids_restore)
    close(got, expected, dtype)
    weights = torch.randn_like(got)
    pair = [torch.autograd.grad(out, leaves, weights) for out in (got, expected)]
    for one, other in zip(*pair, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize(("batch", "width"), [(9, 1536), (130, 100), (1, 512)])
def test_spread_rows(batch, width, dtype):
    mask = drawn(batch, 224, 16)
    count = batch + mask.ids_keep.numel() + mask.mask.shape[1]
    rows = torch.randn(count, width, device="cuda", dtype=dtype, requires_grad=True)
    got = spread_rows(rows, mask, impl="triton")
    assert torch.equal(got, reference.spread_rows(rows, mask))
    exact = rows.detach().double().requires_grad_()
    weights = torch.randn_like(got)
    ours, again = (
        torch.autograd.grad(out, rows, weights)[0]
        for out in (got, spread_rows(rows, mask, impl="triton"))
    )
    assert torch.equal(ours, again)
    expected = reference.spread_rows(exact, mask)
    close(ours, torch.autograd.grad(expected, exact, weights.double())[0], dtype)


@pytest.mark.parametrize("dtype", NORMS)
def test_latent_l2(dtype):
    student = torch.randn(8, 50, 512, device="cuda", dtype=dtype, requires_grad=True)
    teacher = torch.randn(8, 50, 512, device="cuda", dtype=torch.bfloat16)
    got = kernels.latent_l2(student[:, 1:], teacher[:, 1:], impl="triton")
    expected = reference.latent_l2(student[:, 1:], teacher[:, 1:])
    close(got, expected, torch.float32)
    pair = [torch.autograd.grad(loss, student)[0] for loss in (got, expected)]
    close(*pair, dtype)


@pytest.mark.parametrize("dtype", NORMS)
@pytest.mark.parametrize("some", [False, True])
def test_pair_l2(some, dtype):
    shape = (8, 147, 768)
    pair = [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for _ in range(2)]
    kept = torch.rand(shape[:2], device="cuda") < 0.75 if some else None
    if some:
        kept[0] = False
    got = kernels.pair_l2(*pair, kept=kept, impl="triton")
    expected = reference.pair_l2(*pair, kept)
    close(got, expected, torch.float32)
    gradients = [torch.autograd.grad(loss, pair) for loss in (got, expected)]
    for one, other in zip(*gradients, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize(("side", "patch", "batch"), SIZES)
def test_masked_l2_of_some_patches(side, patch, batch, norm_pix):
    ids, pictures = drawn(batch, side, patch).ids_masked, images(batch, side)
    pred = torch.randn(*ids.shape, patch**2 * 3, device="cuda", requires_grad=True)
    kept = torch.rand(ids.shape, device="cuda") < 0.75
    kept[0] = False
    args = pictures, torch.arange(batch, device="cuda"), ids, patch, *STATISTICS, norm_pix
    got = kernels.masked_l2(pred, *args, kept=kept, impl="triton")
    expected = reference.masked_l2(pred, *args, kept=kept)
    pair = [torch.autograd.grad(loss, pred)[0] for loss in (got, expected)]
    close(got, expected, torch.float32)
    close(*pair, torch.float32)


IN_A_TILE = [(50, 12, 64), (197, 16, 32), (65, 3, 64), (17, 3, 64), (50, 4, 80), (1, 1, 16)]
HALF = [torch.float16, torch.bfloat16]
BY_TRITON = [(*shape, "triton", dtype) for shape in IN_A_TILE for dtype in HALF]
BY_CHOICE = [
    (*shape, "auto", dtype)
    for shape in [*IN_A_TILE, (257, 4, 80), (300, 2, 128)]
    for dtype in NORMS
]


@pytest.mark.parametrize(("tokens", "heads", "width", "impl", "dtype"), BY_TRITON + BY_CHOICE)
def test_attention(tokens, heads, width, impl, dtype):
    qkv = torch.randn(5, tokens, 3, heads, width, device="cuda", dtype=dtype, requires_grad=True)
    exact = qkv.detach().double().requires_grad_()
    q, k, v = exact.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / width**0.5).softmax(-1)
    expected = (weights @ v).transpose(1, 2).flatten(2)
    bias = torch.zeros(3 * heads * width, device="cuda", requires_grad=True)
    got = kernels.attention(qkv, bias, impl=impl)
    close(got, expected, dtype)
    gradient = torch.randn_like(got)
    ours = torch.autograd.grad(got, (qkv, bias), gradient)
    (wanted,) = torch.autograd.grad(expected, exact, gradient.double())
    close(ours[0], wanted, dtype)
    close(ours[1], wanted.sum((0, 1)).flatten(), dtype)
    if impl == "triton":
        again = torch.autograd.grad(kernels.attention(qkv, bias, impl=impl), (qkv, bias), gradient)
        assert all(map(torch.equal, ours, again))


def test_longer_blocks_of_queries_backward_than_forward():
    """A table may ask for this: backward then reads rows beyond forward's shorter blocks."""
    qkv = torch.randn(3, 197, 3, 2, 32, device="cuda", dtype=torch.bfloat16)
    grad = torch.randn(3, 197, 64, device="cuda", dtype=torch.bfloat16)
    tile = tile_of(197, 32)
    results = []
    for queries, backward in ((32, Pass(64, 8, 1)), (64, Pass(64, 8, 1)), (64, Pass(32, 4, 2, 2))):
        torch.full(kernel.lse_shape(qkv, tile), torch.nan, device="cuda")  # reused for lse
        out, lse = kernel.forward(qkv, tile, Pass(queries, 4, 1))
        results.append(kernel.backward(grad, qkv, out, lse, tile, backward, summed=True))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            close(one, two, torch.bfloat16)


def small_imae():
    make = functools.partial(
        MaskedAutoencoder, img_size=64, patch_size=8, embed_dim=128, depth=2, num_heads=2,
        decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=2, norm_pix_loss=True,
    )  # fmt: skip
    return IMAE(make(heads=2), make()).cuda()


def losses_and_gradients(call, objective, batch):
    objective.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        parts = call(batch)
    parts["loss"].backward()
    gradients = [p.grad for p in objective.parameters() if p.grad is not None]
    return torch.stack(list(parts.values())).detach(), gradients


def test_a_step_never_waits_for_the_gpu(make_batch, no_sync):
    objective = small_imae()
    torch.cuda.set_sync_debug_mode("default")
    batch = make_batch(16, (64, 64)).to("cuda")
    losses_and_gradients(objective, objective, batch)  # copies tables to the GPU once
    torch.cuda.set_sync_debug_mode("error")
    losses_and_gradients(objective, objective, batch)


def test_a_compiled_step_is_the_same(make_batch):
    objective, batch = small_imae(), make_batch(16, (64, 64)).to("cuda")
    expected, wanted = losses_and_gradients(objective, objective, batch)
    compiled = torch.compile(objective, fullgraph=True)
    got, found = losses_and_gradients(compiled, objective, batch)
    close(got, expected, torch.bfloat16)
    for one, other in zip(found, wanted, strict=True):
        close(one, other, torch.bfloat16)


def test_a_step_in_a_cuda_graph_is_the_same(make_batch):
    objective, batch = small_imae(), make_batch(16, (64, 64)).to("cuda")
    expected, _ = losses_and_gradients(objective, objective, batch)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            losses_and_gradients(objective, objective, batch)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    objective.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        got, _ = losses_and_gradients(objective, objective, batch)
    graph.replay()
    torch.cuda.synchronize()
    close(got, expected, torch.bfloat16)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_of_a_gpu_that_is_not_the_current_one():
    key = torch.arange(3)
    expected = kernels.random_masking(key, (4, 4), 0.5)
    got = kernels.random_masking(key.to("cuda:1"), (4, 4), 0.5)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(expected, got, strict=True))
