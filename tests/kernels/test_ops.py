"""The ops against loops written here, forward and backward."""

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastimae.kernels import (
    PixelStore,
    assemble_tokens,
    attention,
    color_jitter,
    crop_resize,
    draw_windows,
    jitter_factors,
    jitter_patchify,
    latent_l2,
    masked_l2,
    mix_patchify,
    random_masking,
    reference,
    resize_taps,
)
from fastimae.kernels.resize_taps import AxisTaps, ResizeTaps
from fastimae.machine import release

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def test_mix_patchify_extracts_visible_patches_of_the_mixture():
    images, partner = noise(3, 8, 12, 3), torch.tensor([2, 0, 1])
    alpha = torch.tensor([0.1, 0.25, 0.5])
    mask = random_masking(torch.arange(3), (2, 3), 0.5)
    mixed, own, other = mix_patchify(images, mask.ids_keep, 4, MEAN, STD, partner, alpha)
    for b in range(3):
        pair = [oracle.normalised(images[i], MEAN, STD) for i in (b, partner[b])]
        blend = alpha[b] * pair[0] + (1 - alpha[b]) * pair[1]
        for got, image in ((mixed, blend), (own, pair[0]), (other, pair[1])):
            patches = oracle.patches_of(image, 4)
            expected = torch.stack([patches[i] for i in mask.ids_keep[b]])
            torch.testing.assert_close(got[b].double(), expected, rtol=0, atol=2e-6)
    (clean,) = mix_patchify(images, mask.ids_keep, 4, MEAN, STD)
    assert torch.equal(clean, own)


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_masked_l2_and_its_gradient(norm_pix, flat):
    images = noise(3, 8, 8, 3)
    if flat:
        images[:] = 200  # zero variance: only eps keeps the target finite
    target = torch.tensor([1, 1, 2])
    mask = random_masking(torch.arange(3), (2, 2), 0.5)
    pred = torch.randn(3, 2, 48, requires_grad=True)
    loss = masked_l2(pred, images, target, mask.ids_masked, 4, MEAN, STD, norm_pix)
    loss.backward()

    again = pred.detach().double().requires_grad_()
    total = 0
    for b in range(3):
        patches = oracle.patches_of(oracle.normalised(images[target[b]], MEAN, STD), 4)
        rows = dict(zip(mask.ids_masked[b].tolist(), again[b], strict=True))
        total += oracle.pixel_loss(rows, patches, mask.ids_keep[b].tolist(), norm_pix) / 3
    total.backward()
    assert abs(loss.item() - total.item()) < 1e-6 * max(1, total.item())
    torch.testing.assert_close(pred.grad.double(), again.grad, rtol=1e-4, atol=1e-7)


def test_assemble_tokens_and_its_gradients():
    mask = random_masking(torch.arange(2), (2, 3), 0.5)
    x = torch.randn(2, 4, 5, requires_grad=True)
    token = torch.randn(1, 1, 5, requires_grad=True)
    positions = torch.randn(1, 7, 5)
    out = assemble_tokens(x, token, positions, mask.ids_restore)
    weights = torch.randn(2, 7, 5)
    (out * weights).sum().backward()

    grad_x, grad_token = torch.zeros(2, 4, 5), torch.zeros(5)
    for b in range(2):
        visible = mask.ids_keep[b].tolist()
        assert torch.equal(out[b, 0], x[b, 0] + positions[0, 0])
        grad_x[b, 0] = weights[b, 0]
        for i in range(6):
            row = 1 + visible.index(i) if i in visible else None
            source = token[0, 0] if row is None else x[b, row]
            assert torch.equal(out[b, 1 + i], source + positions[0, 1 + i])
            if row is None:
                grad_token += weights[b, 1 + i]
            else:
                grad_x[b, row] = weights[b, 1 + i]
    torch.testing.assert_close(x.grad, grad_x)
    torch.testing.assert_close(token.grad[0, 0], grad_token)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_softmax_attention(dtype):
    qkv = torch.randn(2, 7, 3, 2, 8).to(dtype).requires_grad_()
    out = attention(qkv)
    (out.float() ** 2).sum().backward()
    again = qkv.detach().double().requires_grad_()
    rows = []
    for b in range(2):
        heads = []
        for h in range(2):
            q, k, v = again[b, :, 0, h], again[b, :, 1, h], again[b, :, 2, h]
            heads.append(F.softmax(q @ k.T / 8**0.5, dim=-1) @ v)
        rows.append(torch.cat(heads, dim=-1))
    expected = torch.stack(rows)
    (expected**2).sum().backward()
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(qkv.grad.double(), again.grad, rtol=tolerance, atol=2 * tolerance)


def test_latent_l2_stops_at_the_teacher():
    student = torch.randn(2, 3, 4, requires_grad=True)
    teacher = torch.randn(2, 3, 4, requires_grad=True)
    loss = latent_l2(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(F.mse_loss(student, teacher).item(), rel=1e-6)
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / 24)
    assert teacher.grad is None


class Copies(TorchDispatchMode):
    """Records operations that copy a tensor from one device to another."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        inputs = [one for one in args if isinstance(one, torch.Tensor)]
        if isinstance(out, torch.Tensor) and any(one.device != out.device for one in inputs):
            self.found.append(str(func))
        return out


@pytest.mark.skipif(
    not torch.cuda.is_available() and release(torch.__version__) < (2, 10),
    reason="before torch 2.10, fake tensors of a GPU need a driver",
)
def test_torch_implementations_copy_nothing_to_the_gpu():
    """Copying a list would make the host wait in every step, and cannot be captured."""
    taps = resize_taps(8, (8, 8))
    with FakeTensorMode(), Copies() as copies:
        images = torch.empty(2, 32, 32, 3, dtype=torch.uint8, device="cuda")
        key, alpha = torch.empty(2, dtype=torch.int64, device="cuda"), torch.empty(2, device="cuda")
        mask = random_masking(key, (4, 4), 0.75, impl="torch")
        mix_patchify(images, mask.ids_keep, 8, MEAN, STD, key, alpha, impl="torch")
        reference.mix_patchify(images, mask.ids_keep, 8, MEAN, STD, key, alpha)
        factors = jitter_factors(key, 0.4, impl="torch")
        color_jitter(images, factors, impl="torch")
        jitter_patchify(images, mask.ids_keep, factors, 8, MEAN, STD, impl="torch")
        sides = torch.empty(2, dtype=torch.int32, device="cuda")
        window = draw_windows(key, sides, sides, scale=(0.2, 1), ratio=(0.75, 1.5), impl="torch")
        store = PixelStore(images.flatten(), key, sides, sides, 3)
        axes = [
            [torch.empty(part.shape, dtype=part.dtype, device="cuda") for part in axis[:-1]]
            for axis in taps
        ]
        fake_taps = ResizeTaps(*(AxisTaps(*axis, most=taps.down.most) for axis in axes))
        crop_resize(store, key, *window, fake_taps, impl="torch")
        pred = torch.empty(2, 12, 192, device="cuda")
        for ignored in (0, 2):
            args = pred, images, key, mask.ids_masked, 8, MEAN, STD, True
            masked_l2(*args, ignore_boundary=ignored, impl="torch")
            reference.masked_l2(*args, ignored)
    assert copies.found == []
