"""Mean squared distance of two latents, its gradient prepared in the forward pass.

n = branches: equal, consecutive parts of the first axis, each with a mean of its own.
S = elements of a branch. `masked_l2` shares all but the first kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels.checks import check_branches, check_latents

_BLOCK = 2048  # 16 elements a thread: two 16-byte loads of each bf16 tensor in flight
_WARPS = 4
_MIN_RUN = 256  # contiguous elements: tensors in shorter pieces are copied first


@jit
def _distance_kernel(
    student_ptr,
    stride_student,
    teacher_ptr,
    stride_teacher,
    difference_ptr,
    sums_ptr,
    size,
    blocks,
    BLOCK: tl.constexpr,
):
    """difference = student - teacher, and the sum of its squares over each block.

    student, teacher: [R, size], contiguous along size. difference: [R, size] in the student's
    dtype, for backward, or None where the student needs no gradient. sums: fp32 [R, blocks].
    Grid: (R * blocks,).
    """
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    student = tl.load(student_ptr + row * stride_student + column, mask=inside, other=0)
    teacher = tl.load(teacher_ptr + row * stride_teacher + column, mask=inside, other=0)
    difference = student.to(tl.float32) - teacher.to(tl.float32)
    tl.store(sums_ptr + program, tl.sum(difference * difference))
    if difference_ptr is not None:
        emitted = difference.to(difference_ptr.dtype.element_ty)
        tl.store(difference_ptr + row * size + column, emitted, mask=inside)


@jit
def _scale_kernel(difference_ptr, grad_ptr, factor, out_ptr, size, blocks, BLOCK: tl.constexpr):
    """out = difference * (grad * factor), one grad a branch.

    difference, out: [n, size], contiguous, of one dtype. grad: fp32 [n]. The product is fp32: the
    scale alone would underflow in fp16. Grid: (n * blocks,).
    """
    program = tl.program_id(0)
    branch = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    scale = tl.load(grad_ptr + branch) * factor
    difference = tl.load(difference_ptr + branch * size + column, mask=inside, other=0)
    scaled = difference.to(tl.float32) * scale
    tl.store(out_ptr + branch * size + column, scaled.to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("fastimae::latent_l2", mutates_args=())
def _distance(student: Tensor, teacher: Tensor, branches: int, save: bool) -> tuple[Tensor, Tensor]:
    """(fp32 [n] mean squared distances, student - teacher if `save` else an empty tensor)."""
    difference = student.new_empty(student.shape if save else 0)
    count = student.numel()
    if not count:
        return student.new_full((branches,), torch.nan, dtype=torch.float32), difference
    student, teacher = (
        x if _contiguous_run(x) >= _MIN_RUN else x.contiguous() for x in (student, teacher)
    )
    size = min(_contiguous_run(student), _contiguous_run(teacher), count // branches)
    student, teacher = student.reshape(-1, size), teacher.reshape(-1, size)
    blocks = triton.cdiv(size, _BLOCK)
    sums = student.new_empty(branches, len(student) // branches * blocks, dtype=torch.float32)
    launch(
        _distance_kernel,
        (sums.numel(),),
        student_ptr=student,
        stride_student=student.stride(0),
        teacher_ptr=teacher,
        stride_teacher=teacher.stride(0),
        difference_ptr=difference if save else None,
        sums_ptr=sums,
        size=size,
        blocks=blocks,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    return sums.sum(1) / (count // branches), difference


def _contiguous_run(x: Tensor) -> int:
    """Elements of the longest tail of axes that lies contiguous in memory."""
    run = 1
    for length, stride in zip(reversed(x.shape), reversed(x.stride()), strict=True):
        if length > 1 and stride != run:
            break
        run *= length
    return run


@_distance.register_fake
def _(student: Tensor, teacher: Tensor, branches: int, save: bool) -> tuple[Tensor, Tensor]:
    loss = student.new_empty(branches, dtype=torch.float32)
    return loss, student.new_empty(student.shape if save else 0)


@torch.library.custom_op("fastimae::scale_branches", mutates_args=())
def scale_branches(difference: Tensor, grad: Tensor) -> Tensor:
    """Gradient of n means of squares: difference * 2 * grad / S, by branch.

    difference: contiguous, its first axis n equal parts. grad: [n], any strides. Returns the shape
    and dtype of difference.
    """
    out = torch.empty_like(difference)
    if not out.numel():
        return out
    size = difference.numel() // len(grad)
    blocks = triton.cdiv(size, _BLOCK)
    launch(
        _scale_kernel,
        (len(grad) * blocks,),
        difference_ptr=difference,
        grad_ptr=grad.float().contiguous(),
        factor=2 / size,
        out_ptr=out,
        size=size,
        blocks=blocks,
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )
    return out


@scale_branches.register_fake
def _(difference: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(difference)


def keep_difference(ctx, inputs, output) -> None:
    """setup_context of an op whose second output is the unscaled difference."""
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return scale_branches(ctx.saved_tensors[0], grad), None, None, None


_distance.register_autograd(_backward, setup_context=keep_difference)


class MeanSquare(torch.autograd.Function):
    """The same in torch: fp32 [n], the mean of (x - target)^2 over each branch of x.

    A second derivative is an error, as in Triton: it would take the difference for a constant.
    """

    @staticmethod
    def forward(ctx, x: Tensor, target: Tensor, branches: int) -> Tensor:
        difference = x.float() - target.float()
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(difference.to(x.dtype))
        return difference.square().reshape(branches, -1).mean(1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("this loss has no second derivative: leave out create_graph")
        (difference,) = ctx.saved_tensors
        rows = difference.reshape(len(grad), -1)
        scale = grad.float()[:, None] * (2 / max(rows.shape[1], 1))
        return (rows * scale).to(difference.dtype).view_as(difference), None, None


def latent_l2(
    student: Tensor, teacher: Tensor, *, branches: int | None = None, impl: Impl = "auto"
) -> Tensor:
    """Mean squared distance of latents (i-MAE, section 3.2, equation 5).

    student, teacher: one shape, each any float dtype and strides. No gradient reaches the teacher;
    the student's is in its own dtype. branches: n equal parts of the first axis, one mean each.
    impl: "auto" takes Triton on CUDA and torch elsewhere.

    Returns a fp32 scalar, or fp32 [n] with `branches`; NaN where there is no element.
    Raises ValueError for unequal shapes or devices, or where n does not divide the first axis.
    """
    check_latents(student, teacher)
    check_branches("latent_l2", student, branches)
    if use_triton("latent_l2", impl, student, teacher):
        save = student.requires_grad and torch.is_grad_enabled()
        loss, _ = _distance(student, teacher.detach(), branches or 1, save)
    else:
        loss = MeanSquare.apply(student, teacher.detach(), branches or 1)
    return loss.view(()) if branches is None else loss
