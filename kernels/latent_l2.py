"""Mean squared distance of two latents, with its gradient prepared in the forward pass.

n = branches: equal, consecutive parts of the first axis, each with its own mean. R = contiguous
runs that the latents are read in. `_mean_square` holds what `masked_l2` uses, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastimae.kernels._launch import Impl, jit, launch, tl, triton, use_triton
from fastimae.kernels._mean_square import (
    BLOCK,
    WARPS,
    MeanSquare,
    keep_difference,
    scale_branches,
)
from fastimae.kernels.checks import check_branches, check_latents

_MIN_RUN = 256  # contiguous elements; tensors in shorter runs are copied first


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


@torch.library.custom_op("fastimae::latent_l2", mutates_args=())
def _distance(student: Tensor, teacher: Tensor, branches: int, save: bool) -> tuple[Tensor, Tensor]:
    """Return fp32 [n] mean squared distances, and student - teacher, empty unless `save`."""
    difference = student.new_empty(student.shape if save else 0)
    count = student.numel()
    if not count:
        return student.new_full((branches,), torch.nan, dtype=torch.float32), difference
    student, teacher = (
        x if _contiguous_run(x) >= _MIN_RUN else x.contiguous() for x in (student, teacher)
    )
    size = min(_contiguous_run(student), _contiguous_run(teacher), count // branches)
    student, teacher = student.reshape(-1, size), teacher.reshape(-1, size)
    blocks = triton.cdiv(size, BLOCK)
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
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return sums.sum(1) / (count // branches), difference


def _contiguous_run(x: Tensor) -> int:
    """Return how many elements the longest contiguous tail of axes has."""
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


def _backward(ctx, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return scale_branches(ctx.saved_tensors[0], grad), None, None, None


_distance.register_autograd(_backward, setup_context=keep_difference)


def latent_l2(
    student: Tensor, teacher: Tensor, *, branches: int | None = None, impl: Impl = "auto"
) -> Tensor:
    """Compute the mean squared distance of latents (i-MAE, section 3.2, equation 5).

    student, teacher: of the same shape, each of any float dtype and strides. No gradient reaches
    the teacher; the student's has the student's dtype. branches: n equal parts of the first axis,
    one mean each. impl: "auto" uses Triton on CUDA and torch elsewhere.

    Returns a fp32 scalar, or fp32 [n] with `branches`; NaN for empty tensors.
    Raises ValueError for unequal shapes or devices, or if n does not divide the first axis.
    """
    check_latents(student, teacher)
    check_branches("latent_l2", student, branches)
    if use_triton("latent_l2", impl, student, teacher):
        save = student.requires_grad and torch.is_grad_enabled()
        loss, _ = _distance(student, teacher.detach(), branches or 1, save)
    else:
        loss = MeanSquare.apply(student, teacher.detach(), branches or 1, None)
    return loss.view(()) if branches is None else loss
