"""A training step: its parts and their seconds, rung by rung."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from benchmarks.rungs import ALWAYS, ASKED, FP8, PAIRS, START, UPDATE
from benchmarks.step_model.assumptions import FP8_PRODUCT, GRAPH_NODE, Card, E, memory, product
from benchmarks.step_model.block import BlockTimes, Stack, block, first_block, last_block
from benchmarks.train.cases import TrainCase, make_models

BLOCK_KERNELS = 34
"""Kernels of a block in a step, forward and backward."""
TEACHER_KERNELS = 9
FRONT_BYTES, MIXED_FRONT_BYTES, BACK_BYTES = 420e3, 720e3, 1071e3
"""Bytes per image or mixture: mask and visible patches; decoder input and loss of one branch."""
LARGE_BATCH = 4
"""Multiple of the benchmark's batch that fits on a GPU of 80 GB."""


@dataclasses.dataclass(frozen=True)
class CaseSizes:
    """Sizes of a case at a batch size, as far as the model needs them."""

    case: TrainCase
    samples: int
    encoder: Stack
    decoder: Stack
    visible: int
    masked: int
    values: int
    """Values of a patch."""
    parameters: int
    tensors: int
    branches: int
    teachers: int
    """Teacher passes per mixture."""
    frozen: int
    """Parameters of the teacher, kept in bf16."""


def model_of(case: TrainCase, samples: int) -> CaseSizes:
    """Read the sizes of a case from the model that the benchmark trains."""
    student, *teacher = make_models(case, "meta")
    imae = case.objective == "imae"
    patches, branches = student.grid[0] * student.grid[1], 2 if imae else 1
    visible = patches // 4
    trained = [p for p in student.parameters() if p.requires_grad]
    wide, narrow = student.blocks[0], student.decoder_blocks[0]
    return CaseSizes(
        case=case, samples=samples,
        encoder=Stack(
            len(student.blocks), wide.norm1.weight.numel(), wide.attn.num_heads, samples,
            1 + visible,
        ),
        decoder=Stack(
            len(student.decoder_blocks), narrow.norm1.weight.numel(), narrow.attn.num_heads,
            samples * branches, 1 + patches,
        ),
        visible=visible, masked=patches - visible, values=student.decoder_pred.out_features,
        parameters=sum(p.numel() for p in trained), tensors=len(trained), branches=branches,
        teachers=2 * len(teacher),
        frozen=sum(p.numel() for one in teacher for p in one.parameters()),
    )  # fmt: skip


def parts(card: Card, model: CaseSizes, rungs: Collection[str]) -> dict[str, float]:
    """Compute the seconds of each part of a step."""
    wide, narrow = (block(card, stack, rungs) for stack in (model.encoder, model.decoder))
    first = first_block(card, model.decoder, 1 + model.visible, rungs)
    middle = max(model.decoder.depth - 2, 0)
    last = last_block(card, model.decoder, model.masked, rungs)
    between = BLOCK_KERNELS * GRAPH_NODE
    found = {
        "encoder": model.encoder.depth * (wide.seconds + between),
        "decoder": (model.decoder.depth > 1) * (first.seconds + between)
        + middle * (narrow.seconds + between),
        "last decoder block": last.seconds + 45 * GRAPH_NODE,
        "teacher": _teacher(card, model, wide, rungs),
        "head, prediction, embedding": _outer_products(card, model),
        "our ops": _ops(card, model),
        "parameters": _parameters(card, model, rungs),
        "rest": 60 * 2e-6 + memory(card, _glue(model)),
    }  # fmt: skip
    return {name: seconds for name, seconds in found.items() if seconds}


def ladder(card: Card, model: CaseSizes) -> dict[str, dict[str, float]]:
    """Compute the parts of a step with ever more rungs, from recorded, compiled blocks on."""
    names = ALWAYS + (ASKED if model.teachers else ())
    return {name: parts(card, model, names[:number]) for number, name in enumerate((START, *names))}


def _teacher(card: Card, model: CaseSizes, wide: BlockTimes, rungs: Collection[str]) -> float:
    passes = model.teachers / 2 if PAIRS in rungs else model.teachers
    gain = FP8_PRODUCT if FP8 in rungs else 1.0
    once = TEACHER_KERNELS * GRAPH_NODE
    for name, seconds in wide.forward.items():
        once += seconds / (gain if name.startswith(("qkv", "proj", "fc")) else 1)
    rows = model.encoder.samples * model.encoder.tokens
    head = product(card, rows, model.decoder.width, model.encoder.width)
    return passes * (model.encoder.depth * once + head)


def _outer_products(card: Card, model: CaseSizes) -> float:
    d, e, v = model.encoder.width, model.decoder.width, model.values
    rows = model.samples * model.branches * model.masked
    tokens = model.samples * model.encoder.tokens
    predict = 2 * product(card, rows, v, e) + product(card, v, e, rows, weight=True)
    heads = model.branches * 3 * product(card, tokens, e, d)
    return predict + heads + 2 * product(card, model.samples * model.visible, d, v)


def _ops(card: Card, model: CaseSizes) -> float:
    """Compute the seconds of masks, mixtures, decoder inputs and losses, by their fewest bytes."""
    first = FRONT_BYTES if model.branches == 1 else MIXED_FRONT_BYTES
    return model.samples * (first + model.branches * BACK_BYTES) / card.copy_bytes


def _parameters(card: Card, model: CaseSizes, rungs: Collection[str]) -> float:
    """Compute the seconds of the update, from bytes per parameter and kernels per tensor.

    Without our update, a tensor has three kernels of its own: its cast, its gradient's cast, and
    their sum. Three quarters of them wait for a launch. A block has 12 tensors; the first estimate
    of this step took 24, and was 0.8 to 1.3 ms longer.
    """
    if UPDATE in rungs:
        return memory(card, model.parameters * 28) + 12 * GRAPH_NODE
    moved = 6 + 6 + 12 + 4 + 28  # cast, its gradient's cast, their sum, zeros, AdamW
    return memory(card, model.parameters * moved) + model.tensors * 3 * 1.5e-6 * 0.75


def _glue(model: CaseSizes) -> float:
    encoder = model.samples * model.encoder.tokens * model.encoder.width
    decoder = model.samples * model.branches * model.encoder.tokens * model.decoder.width
    return E * (12 * encoder + 8 * decoder)
