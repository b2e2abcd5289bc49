"""How many operations training takes: the denominator of MFU.

Matrix products only, two operations for a multiplication with addition, of the plain maths on the
visible patches. What an implementation does beside that (embedding masked patches, a second try
at an activation) earns it nothing, and what it leaves out (rows of the last decoder block that no
loss sees) is counted all the same.
"""

from __future__ import annotations

from benchmarks.train.cases import Case
from fastimae.models import parse_name

MASK_RATIO = 0.75
TEACHER_PASSES = 2


def train_flops(case: Case) -> float:
    """Operations of a training step for one image; i-MAE: one mixture, with two teacher passes."""
    return model_flops(
        img_size=case.img_size,
        branches=2 if case.objective == "imae" else 1,
        teacher_passes=TEACHER_PASSES if case.objective == "imae" else 0,
        **parse_name(case.model),
    )


def model_flops(
    *,
    img_size: int,
    patch_size: int,
    embed_dim: int,
    depth: int,
    decoder_embed_dim: int,
    decoder_depth: int,
    branches: int = 1,
    teacher_passes: int = 0,
    **_: int,
) -> float:
    """Forward and backward, 1 : 2; the patch embedding has no gradient of its input.

    branches: decoder passes. teacher_passes: encoder passes without gradient.
    """
    patches = (img_size // patch_size) ** 2
    visible, values = int(patches * (1 - MASK_RATIO)), 3 * patch_size**2
    embed = 2 * visible * values * embed_dim
    encoder = depth * block_flops(1 + visible, embed_dim)
    head = 2 * (1 + visible) * embed_dim * decoder_embed_dim
    decoder = decoder_depth * block_flops(1 + patches, decoder_embed_dim)
    predict = 2 * patches * decoder_embed_dim * values
    student = 2 * embed + 3 * (encoder + branches * (head + decoder + predict))
    return student + teacher_passes * (embed + encoder + head)


def block_flops(tokens: int, width: int) -> int:
    """A transformer block, forward: projections and MLP, and two products with every key."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width
