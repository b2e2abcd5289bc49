"""The step on a GPU: captured, compiled and eager steps agree, and none waits."""

import copy

import pytest
import torch
from slow_teacher import SlowTeacher

from fastimae.engine.averaged_weights import AveragedWeights
from fastimae.engine.blocks import compile_blocks
from fastimae.engine.optim import build_optimizer
from fastimae.engine.step import GraphedStep, Step
from fastimae.engine.throttle import Throttle
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODEL = {"name": "mae_vit_tiny_patch8", "img_size": 64}
STEPS = 6


def build(kind):
    if kind == "mae":
        return MAE(create_model(**MODEL)).cuda()
    if kind == "slow":
        student = create_model(**MODEL)
        own = {"mask_ratio": 0.75, "mask_patch_size": None, "momentum": 0.9}
        return SlowTeacher(student, **own).cuda()
    objective = IMAE(create_model(**MODEL, heads=2), create_model(**MODEL)).cuda()
    objective.teacher.bfloat16()
    return objective


def make_step(objective, kind, accum_iter=2, opt="adamw", average=None):
    optimizer = build_optimizer(objective, 1e-3, 0.05, opt=opt, for_graph=kind is GraphedStep)
    return kind(
        objective, optimizer, precision="bf16", device=torch.device("cuda"),
        accum_iter=accum_iter, clip_grad=0.5, average=average,
    )  # fmt: skip


def losses(step, batches):
    """Run STEPS steps under a schedule, and read the results at the end."""
    seen, count = [], step.accum_iter
    for number in range(STEPS):
        own = batches[count * number : count * (number + 1)]
        seen += [parts["loss"] for parts in step(own, 1e-3 * (number + 1) / STEPS)]
    return torch.stack(seen).cpu()


@pytest.fixture
def batches(make_batch):
    return [make_batch(8, (64, 64)).to("cuda") for _ in range(2 * STEPS)]


@pytest.mark.parametrize("accum_iter", [1, 2])
@pytest.mark.parametrize("kind", ["mae", "imae", "slow"])
def test_recorded_steps_equal_plain_ones(kind, accum_iter, batches):
    first = build(kind)
    second = copy.deepcopy(first)
    plain, recorded = (
        make_step(first, Step, accum_iter), make_step(second, GraphedStep, accum_iter)
    )  # fmt: skip
    torch.testing.assert_close(losses(recorded, batches), losses(plain, batches), rtol=2e-3, atol=0)
    assert recorded.failure is None and len(recorded.replays) == accum_iter
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)
    assert all(map(torch.equal, first.buffers(), second.buffers()))  # update counters


@pytest.mark.parametrize("resumed", [False, True])
def test_recording_changes_nothing(resumed, batches):
    objective = build("imae")
    step = make_step(objective, GraphedStep)
    if resumed:
        before = make_step(objective, GraphedStep)
        losses(before, batches)
        step.optimizer.load_state_dict(before.optimizer.state_dict())
    model, moments = copy.deepcopy((objective.state_dict(), step.optimizer.state_dict()["state"]))
    numbers = torch.cuda.get_rng_state()
    step.prepare(batches[0])
    assert step.failure is None
    assert torch.equal(torch.cuda.get_rng_state(), numbers)
    assert all(torch.equal(objective.state_dict()[name], value) for name, value in model.items())
    after = step.optimizer.state_dict()["state"]
    assert after and (not resumed or after.keys() == moments.keys())
    for number, state in after.items():
        for name, value in state.items():
            old = moments[number][name] if resumed else torch.zeros_like(value)
            assert torch.equal(value, old), name


def test_training_continues_if_recording_fails(batches, pools):
    """Memory that was taken until then is freed."""

    def wait(*_):
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()

    first, second = build("mae"), build("mae")
    second.load_state_dict(first.state_dict())
    plain, failing = make_step(first, Step), make_step(second, GraphedStep)
    expected = losses(plain, batches)
    second.register_forward_hook(wait)
    stream, before = torch.cuda.current_stream(), pools()
    failing.prepare(batches[0])
    assert failing.failure is not None
    assert torch.cuda.current_stream() == stream and pools() <= before
    torch.testing.assert_close(losses(failing, batches), expected, rtol=2e-3, atol=0)


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


@pytest.mark.parametrize("opt", ["adamw", "muon"])
def test_muon_and_the_average_are_recorded(opt, batches, request):
    first = build("mae")
    second = copy.deepcopy(first)
    plain, recorded = (
        make_step(objective, kind, opt=opt, average=AveragedWeights(objective.student, 0.6))
        for objective, kind in ((first, Step), (second, GraphedStep))
    )
    torch.testing.assert_close(losses(recorded, batches), losses(plain, batches), rtol=2e-3, atol=0)
    assert recorded.failure is None and len(recorded.replays) == 2
    assert recorded.average.updates == plain.average.updates == STEPS
    for name, expected in plain.average.of.items():
        torch.testing.assert_close(recorded.average.of[name], expected, rtol=2e-2, atol=2e-3)
    request.getfixturevalue("no_sync")
    recorded(batches[:2], 1e-3)


def test_the_host_is_two_steps_ahead_at_most():
    throttle, ends = Throttle(torch.device("cuda")), []
    for _ in range(10):
        torch.cuda._sleep(20_000_000)
        ends.append(torch.cuda.current_stream().record_event())
        throttle.wait()
        assert sum(not end.query() for end in ends) <= 2
