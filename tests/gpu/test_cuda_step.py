"""The step on a GPU: recorded, compiled and plain ones are the same, and none waits."""

import copy

import pytest
import torch

from fastimae.engine.optim import build_optimizer
from fastimae.engine.regions import compile_blocks
from fastimae.engine.step import WARM_UP_STEPS, GraphedStep, Step
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODEL = {"name": "mae_vit_tiny_patch8", "img_size": 64}
STEPS = WARM_UP_STEPS + 4


def build(kind):
    if kind == "mae":
        return MAE(create_model(**MODEL)).cuda()
    objective = IMAE(create_model(**MODEL, heads=2), create_model(**MODEL)).cuda()
    objective.teacher.bfloat16()
    return objective


def make_step(objective, kind):
    optimizer = build_optimizer(objective, 1e-3, 0.05, for_graph=kind is GraphedStep)
    return kind(
        objective, optimizer, precision="bf16", device=torch.device("cuda"), accum_iter=2,
        clip_grad=0.5,
    )  # fmt: skip


def losses(step, batches):
    """Of STEPS steps under a schedule, read at the end."""
    seen = []
    for number in range(STEPS):
        pair = batches[2 * number : 2 * number + 2]
        seen += [parts["loss"].clone() for parts in step(pair, 1e-3 * (number + 1) / STEPS)]
    return torch.stack(seen).cpu()


@pytest.fixture
def batches(make_batch):
    return [make_batch(8, (64, 64)).to("cuda") for _ in range(2 * STEPS)]


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_recorded_steps_equal_plain_ones(kind, batches):
    first = build(kind)
    second = copy.deepcopy(first)
    plain, recorded = make_step(first, Step), make_step(second, GraphedStep)
    torch.testing.assert_close(losses(recorded, batches), losses(plain, batches), rtol=2e-3, atol=0)
    assert recorded.replays is not None, "the step was not recorded"
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("kind", [Step, GraphedStep])
def test_a_step_never_waits_for_the_gpu(kind, batches, request):
    step = make_step(build("imae"), kind)
    losses(step, batches)
    request.getfixturevalue("no_sync")
    step(batches[:2], 1e-3)


def test_compiled_blocks_train_alike(batches):
    plain, compiled = build("imae"), build("imae")
    compiled.load_state_dict(plain.state_dict())
    compile_blocks(compiled)
    expected = losses(make_step(plain, Step), batches)
    got = losses(make_step(compiled, GraphedStep), batches)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=0)
