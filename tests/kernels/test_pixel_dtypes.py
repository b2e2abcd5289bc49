"""Pixels of 8 and 16 bits and any number of channels: the ops that read them, against loops."""

import oracle
import pytest
import torch

from fastimae.kernels import reference
from fastimae.kernels.masked_l2 import masked_l2
from fastimae.kernels.mix_patchify import mix_patchify
from fastimae.kernels.reference import NORM_PIX_EPS

EVERY = pytest.mark.parametrize("impl", ["triton", "torch", "reference"])
PIXELS = pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
CHANNELS = pytest.mark.parametrize("channels", [1, 3, 4, 6, 13])
PATCH = 4


def pixels(dtype, channels, side=2 * PATCH):
    """Make three images that have the smallest and the largest values, too: [3, side, side, C]."""
    top = torch.iinfo(dtype).max
    images = torch.randint(0, top + 1, (3, side, side, channels))
    images[0, 0, 0], images[1, 0, 0] = 0, top
    return images.to(dtype)


def statistics(channels):
    """Return a mean and std that differ from channel to channel."""
    return [0.1 + c / 20 for c in range(channels)], [0.05 + c / 40 for c in range(channels)]


def patches_of(images, patch, mean, std):
    """Return all patches of images, normalised in float64: [B, L, P*P*C]."""
    normalised = [oracle.normalised(image, mean, std) for image in images]
    return torch.stack([torch.stack(oracle.patches_of(image, patch)) for image in normalised])


def patchified(impl, *args):
    return reference.mix_patchify(*args) if impl == "reference" else mix_patchify(*args, impl=impl)


@EVERY
@PIXELS
@CHANNELS
def test_visible_patches(impl, dtype, channels):
    images, ids = pixels(dtype, channels), torch.tensor([[3, 0], [1, 2], [0, 1]])
    partner, alpha, normal = torch.tensor([2, 0, 1]), torch.rand(3), statistics(channels)
    own = torch.stack([x[i] for x, i in zip(patches_of(images, PATCH, *normal), ids, strict=True)])
    other = patches_of(images[partner.tolist()], PATCH, *normal)
    other = torch.stack([x[i] for x, i in zip(other, ids, strict=True)])
    weight = alpha.double()[:, None, None]
    got = patchified(impl, images, ids, PATCH, *normal, partner, alpha)
    for x, y in zip(got, (weight * own + (1 - weight) * other, own, other), strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-6, atol=4e-6)


@EVERY
@PIXELS
@CHANNELS
@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_its_gradient(impl, dtype, channels, norm_pix):
    images, ids = pixels(dtype, channels), torch.tensor([[3, 0], [1, 2], [0, 1]])
    target, normal = torch.tensor([1, 1, 2]), statistics(channels)
    pred = torch.randn(3, 2, PATCH**2 * channels, requires_grad=True)
    patches = patches_of(images, PATCH, *normal)
    truth = torch.stack([patches[t][i] for t, i in zip(target, ids, strict=True)])
    if norm_pix:
        variance = truth.var(-1, keepdim=True)
        truth = (truth - truth.mean(-1, keepdim=True)) / (variance + NORM_PIX_EPS).sqrt()
    difference = pred.detach().double() - truth
    rest = (images, target, ids, PATCH, *normal, norm_pix)
    loss = (
        reference.masked_l2(pred, *rest)
        if impl == "reference"
        else masked_l2(pred, *rest, impl=impl)
    )
    (grad,) = torch.autograd.grad(loss, pred)
    torch.testing.assert_close(loss.double(), difference.square().mean(), rtol=2e-6, atol=0)
    wanted = 2 * difference / difference.numel()
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-5, atol=1e-6 * wanted.abs().max())


@pytest.mark.parametrize("impl", ["triton", "torch"])
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        lambda x: torch.cat([x, x], 2)[:, :, 3 : 3 + x.shape[2]],
        lambda x: x.repeat(1, 1, 1, 2)[..., 1 : 1 + x.shape[3]],
    ],
    ids=["channels first", "crop", "some channels"],
)
def test_strided_images_of_16_bits(impl, view):
    images, ids, normal = pixels(torch.uint16, 6), torch.tensor([[3], [1], [0]]), statistics(6)
    images = view(images)
    (got,) = mix_patchify(images, ids, PATCH, *normal, impl=impl)
    (expected,) = mix_patchify(images.contiguous(), ids, PATCH, *normal, impl="torch")
    torch.testing.assert_close(got, expected)
    rest = torch.arange(3), ids, PATCH, *normal, True
    loss = masked_l2(expected, images, *rest, impl=impl)
    torch.testing.assert_close(loss, masked_l2(expected, images.contiguous(), *rest, impl="torch"))


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_thirteen_bands_of_16_bits_in_patches_of_16(impl):
    """Sentinel-2's bands: 3328 values a patch, which is no power of two."""
    images, ids, normal = pixels(torch.uint16, 13, 32), torch.tensor([[3]] * 3), statistics(13)
    (got,) = mix_patchify(images, ids, 16, *normal, impl=impl)
    expected = patches_of(images, 16, *normal)[:, 3:]
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=4e-6)
    loss = masked_l2(0 * got, images, torch.arange(3), ids, 16, *normal, False, impl=impl)
    torch.testing.assert_close(loss.double(), expected.square().mean(), rtol=2e-6, atol=0)


def test_ops_of_16_bits_are_well_formed():
    images, ids, normal = pixels(torch.uint16, 6), torch.tensor([[3], [1], [0]]), statistics(6)
    op = torch.ops.fastimae.mix_patchify.default
    pair = torch.tensor([1, 2, 0]), torch.rand(3)
    torch.library.opcheck(op, (images, ids, PATCH, *normal, *pair, True, torch.bfloat16))
    pred = torch.randn(3, 1, PATCH**2 * 6, requires_grad=True)
    args = (pred, images, torch.arange(3), ids, PATCH, *normal, True, 0, None, 1, True)
    torch.library.opcheck(torch.ops.fastimae.masked_l2.default, args)


@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_equal_pixels_of_8_and_16_bits_are_equal(impl):
    """257 times a byte is the same share of the full range."""
    images, ids, normal = pixels(torch.uint8, 3), torch.tensor([[3], [1], [0]]), statistics(3)
    deep = (images.int() * 257).to(torch.uint16)
    (shallow,) = mix_patchify(images, ids, PATCH, *normal, impl=impl)
    torch.testing.assert_close(mix_patchify(deep, ids, PATCH, *normal, impl=impl), (shallow,))
