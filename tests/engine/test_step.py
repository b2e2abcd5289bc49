"""One optimizer step: without waiting, recorded or not, compiled or not, the same."""

import copy

import pytest
import torch
from torch import Tensor

from fastimae.engine import step as module
from fastimae.engine.optim import build_optimizer
from fastimae.engine.regions import blocks, compile_blocks, recompute_blocks
from fastimae.engine.step import WARM_UP_STEPS, GraphedStep, Step
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE

CPU = torch.device("cpu")
MODEL = {"name": "mae_vit_nano_patch8", "img_size": 32}


def build(kind):
    if kind == "mae":
        return MAE(create_model(**MODEL))
    return IMAE(create_model(**MODEL, heads=2), create_model(**MODEL))


def make_step(objective, kind=Step, *, for_graph=False, precision="fp32", **settings):
    optimizer = build_optimizer(objective, 1e-3, 0.05)
    if for_graph:  # as on CUDA, where the fused optimizer takes a tensor
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(1e-3)
            group["fused"] = False
    return kind(objective, optimizer, precision=precision, device=CPU, **settings)


def weights(objective):
    return torch.cat([p.detach().flatten() for p in objective.student.parameters()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_a_step_never_waits_for_the_device(kind, precision, make_batch, monkeypatch):
    step = make_step(build(kind), precision=precision, clip_grad=1.0, accum_iter=2)
    batches = [make_batch(4), make_batch(4)]
    step(batches, 1e-3)  # the optimizer's first step makes its state

    def wait(*_, **__):
        raise AssertionError("the host waits for the device")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(Tensor, name, wait)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    parts = step(batches, 1e-3)
    monkeypatch.undo()
    assert all(part.isfinite() for part in parts[1].values())


@pytest.mark.parametrize("kind", ["mae", "imae"])
def test_recorded_steps_equal_plain_ones(kind, make_batch):
    """Under accumulation, clipping, a schedule, and mixing ratios that change."""
    first = build(kind)
    plain = make_step(first, clip_grad=0.5, accum_iter=2, for_graph=True)
    recorded = make_step(
        copy.deepcopy(first), GraphedStep, clip_grad=0.5, accum_iter=2, for_graph=True,
        record=lambda function: function,
    )  # fmt: skip
    for number in range(WARM_UP_STEPS + 4):
        batches, lr = [make_batch(4), make_batch(4)], 1e-3 * (number + 1)
        expected = plain(batches, lr)
        own = copy.deepcopy(batches)
        got = []
        for micro, batch in enumerate(own):
            parts = recorded.accumulate(batch, last=micro == 1)
            got.append({name: part.clone() for name, part in parts.items()})
            batch.images.zero_()  # the caller's buffer is the caller's again
        recorded.update(lr)
        assert got == expected
    assert recorded.replays is not None
    assert torch.equal(weights(recorded.objective), weights(first))


def test_where_recording_fails_training_goes_on(make_batch, monkeypatch):
    said = []
    monkeypatch.setattr(module.log, "warning", lambda *words: said.append(words))

    def fail(function):
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    first = build("mae")
    plain, recorded = (
        make_step(first, for_graph=True),
        make_step(copy.deepcopy(first), GraphedStep, for_graph=True, record=fail),
    )
    for _ in range(WARM_UP_STEPS + 2):
        batch = make_batch(4)
        assert plain([batch], 1e-3) == recorded([batch], 1e-3)
    assert torch.equal(weights(recorded.objective), weights(first))
    ((message, reason),) = said
    assert "without CUDA graphs" in message and reason.endswith("stream is capturing")


def compiled(objective):
    compile_blocks(objective, "aot_eager")


def recomputed_and_compiled(objective):
    recompute_blocks(objective)
    compiled(objective)


@pytest.mark.parametrize("change", [recompute_blocks, compiled, recomputed_and_compiled])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_regions_change_nothing_but_the_cost(change, precision, make_batch):
    plain, changed = build("imae"), build("imae")
    changed.load_state_dict(plain.state_dict())
    assert len(list(blocks(plain))) == 2 * (4 + 1)
    change(changed)
    batch = make_batch(4)
    results = []
    for objective in (plain, changed):
        step = make_step(objective, precision=precision)
        parts = step._forward_backward(batch)
        results.append((parts, [p.grad for p in objective.student.parameters()]))
    for name, part in results[0][0].items():
        torch.testing.assert_close(results[1][0][name], part, rtol=1e-5, atol=1e-6)
    bound = 1e-5 if precision == "fp32" else 2e-2
    for a, b in zip(results[0][1], results[1][1], strict=True):
        if a is not None:
            assert (a - b).norm() <= bound * a.norm()


def test_recomputed_blocks_keep_less(make_batch):
    """Bytes that autograd saves between forward and backward."""
    kept = {}
    for name in ("plain", "recomputed"):
        objective = build("mae")
        if name == "recomputed":
            recompute_blocks(objective)
        sizes = {}

        def note(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            objective(make_batch(16))
        kept[name] = sum(sizes.values())
    assert kept["recomputed"] < 0.6 * kept["plain"]
