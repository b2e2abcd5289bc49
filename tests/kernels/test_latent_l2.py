"""latent_l2: Triton's interpreter and the torch implementation against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastimae.kernels import reference
from fastimae.kernels._mean_square import scale_branches
from fastimae.kernels.latent_l2 import latent_l2

IMPLS = ("triton", "torch")
# The interpreter truncates bf16 stores: one unit in the last place of the saved difference.
TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def check(student, teacher, impl, branches=None):
    """Compare value and gradient with the reference, the loss of branch i weighted by i + 0.5."""
    student = student.detach().requires_grad_()
    loss = latent_l2(student, teacher, branches=branches, impl=impl)
    if branches:
        parts = zip(student.chunk(branches), teacher.chunk(branches), strict=True)
        expected = torch.stack([reference.latent_l2(*part) for part in parts])
    else:
        expected = reference.latent_l2(student, teacher)
    assert loss.dtype == torch.float32 and loss.shape == expected.shape
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    weights = torch.arange(branches or 1) + 0.5
    (grad,) = torch.autograd.grad((loss * weights).sum(), student)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), student)
    assert grad.dtype == student.dtype
    tolerance = TOLERANCE[student.dtype]
    torch.testing.assert_close(grad, wanted, rtol=tolerance, atol=tolerance * wanted.abs().max())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("student", TOLERANCE)
@pytest.mark.parametrize("teacher", [torch.float32, torch.bfloat16])
def test_value_and_gradient(impl, student, teacher):
    shape = (4, 7, 96)
    check(torch.randn(shape).to(student), torch.randn(shape).to(teacher), impl, branches=2)
    check(torch.randn(shape).to(student), torch.randn(shape).to(teacher), impl)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, 1:],
        lambda x: x.transpose(1, 2),
        lambda x: x[..., ::2],
        lambda x: x[::2],
        lambda x: x[:, :1].expand_as(x),
        lambda x: x.view(4, 3, 3, 300)[:, :, 1:],
    ],
)
def test_strided_views(impl, view):
    student, teacher = torch.randn(4, 9, 300), torch.randn(4, 9, 300)
    check(view(student), view(teacher), impl)
    check(view(student), view(teacher).contiguous(), impl, branches=2)
    check(view(student).contiguous(), view(teacher), impl, branches=2)


@settings(max_examples=10)
@given(shape=st.lists(st.integers(1, 40), min_size=0, max_size=3))
def test_any_shape(shape):
    for impl in IMPLS:
        check(torch.randn(shape), torch.randn(shape), impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_fp16_gradients_do_not_underflow_before_they_are_scaled(impl):
    student = torch.full((64, 4096), 1e-3, dtype=torch.float16, requires_grad=True)
    loss = latent_l2(student, torch.zeros(64, 4096), impl=impl)
    (grad,) = torch.autograd.grad(loss * 2.0**24, student)
    wanted = 2 * student.detach().float() * 2.0**24 / student.numel()
    torch.testing.assert_close(grad.float(), wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("impl", IMPLS)
def test_stride_zero_gradient(impl):
    student, teacher = torch.randn(4, 33, requires_grad=True), torch.randn(4, 33)
    loss = latent_l2(student, teacher, branches=4, impl=impl)
    (grad,) = torch.autograd.grad(loss, student, torch.tensor(3.0).expand(4))
    torch.testing.assert_close(grad, 6 * (student - teacher).detach() / 33)


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_tensors_give_nan_and_an_empty_gradient(impl):
    student = torch.randn(0, 5, requires_grad=True)
    loss = latent_l2(student, torch.randn(0, 5), branches=2, impl=impl)
    assert loss.shape == (2,) and loss.isnan().all()
    loss.sum().backward()
    assert student.grad.shape == (0, 5)


@pytest.mark.parametrize("impl", IMPLS)
def test_teacher_gets_no_gradient_and_extremes_pass_through(impl):
    teacher = torch.randn(3, 8, requires_grad=True)
    assert not latent_l2(torch.randn(3, 8), teacher, impl=impl).requires_grad
    student = torch.tensor([1e18, -1e18, 0.0]).requires_grad_()
    check(student, torch.zeros(3), impl)
    assert latent_l2(torch.tensor([torch.nan, 0]), torch.zeros(2), impl=impl).isnan()
    assert latent_l2(torch.tensor([torch.inf, 0]), torch.zeros(2), impl=impl) == torch.inf


@pytest.mark.parametrize("impl", IMPLS)
def test_full_graph(impl):
    student, teacher = torch.randn(4, 6, 8, requires_grad=True), torch.randn(4, 6, 8)

    def call(student):
        return latent_l2(student[:, 1:], teacher[:, 1:], branches=2, impl=impl)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    weights = torch.tensor([1.0, 3.0])
    expected = torch.autograd.grad(call(student) @ weights, student)
    torch.testing.assert_close(torch.autograd.grad(compiled(student) @ weights, student), expected)


def test_custom_ops():
    student, teacher = torch.randn(4, 5, 6, requires_grad=True), torch.randn(4, 5, 6)
    for save in (True, False):
        args = (student if save else student.detach(), teacher, 2, save)
        torch.library.opcheck(torch.ops.fastimae.latent_l2.default, args)
    torch.library.opcheck(scale_branches, (teacher, torch.randn(2)))


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"student \[2, 3\] and teacher \[2, 1\] differ"):
        latent_l2(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"2 branches do not divide a tensor of \[3\]"):
        latent_l2(torch.zeros(3), torch.zeros(3), branches=2)
    with pytest.raises(ValueError, match="impl='cuda'"):
        latent_l2(torch.zeros(3), torch.zeros(3), impl="cuda")


def test_a_second_derivative_is_refused():
    """It would silently be missing from the gradient of a sum with other terms."""
    x = torch.randn(2, 3, requires_grad=True)
    loss = latent_l2(x, torch.zeros(2, 3)) + x.pow(3).sum()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)
