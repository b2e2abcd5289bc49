"""Whole steps in one graph on a GPU: the losses and weights of single steps, and no host."""

import copy

import pytest
import torch
from resident_loader import Resident
from toy_images import save_colours

from fastimae.engine.optim import build_optimizer
from fastimae.engine.resident_step import STEPS_PER_GRAPH, ResidentStep
from fastimae.engine.step import GraphedStep
from fastimae.loaders import create_loader
from fastimae.models import create_model
from fastimae.objectives import MAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STEPS = STEPS_PER_GRAPH + 3


def make_step(objective, kind, accum_iter):
    optimizer = build_optimizer(objective, 1e-3, 0.05, for_graph=True)
    return kind(
        objective, optimizer, precision="bf16", device=torch.device("cuda"),
        accum_iter=accum_iter, clip_grad=0.5,
    )  # fmt: skip


def source_of(batches):
    """Return an epoch of these batches."""
    source = Resident(None)
    source.counter = source.counter.cuda()
    source.begin = lambda epoch, step: source.counter.fill_(step)
    source._keep(batches)
    return source


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_whole_steps_equal_single_ones(accum_iter, make_batch):
    """Several graphs of many steps, and the rest one by one, each with its learning rate."""
    torch.manual_seed(0)
    first = MAE(create_model("mae_vit_tiny_patch8", img_size=64)).cuda()
    second = copy.deepcopy(first)
    batches = [make_batch(8, (64, 64)).to("cuda") for _ in range(STEPS * accum_iter)]
    rates = [1e-3 * (number + 1) / STEPS for number in range(STEPS)]
    single, whole = (
        make_step(first, GraphedStep, accum_iter), make_step(second, ResidentStep, accum_iter),
    )  # fmt: skip
    expected = []
    for number, rate in enumerate(rates):
        own = batches[number * accum_iter : (number + 1) * accum_iter]
        expected += [parts["loss"] for parts in single(own, rate)]

    source = source_of(batches)
    assert whole.prepare_whole(source, 0, STEPS) and whole.failure is None
    assert set(whole.whole) == {1, STEPS_PER_GRAPH}
    source.begin(0, 0)
    losses = whole.take(rates[:STEPS_PER_GRAPH]), whole.take(rates[STEPS_PER_GRAPH:])
    torch.testing.assert_close(torch.cat(losses)[:, 0], torch.stack(expected), rtol=2e-3, atol=0)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


def test_samples_on_the_gpu_need_no_host(tmp_path, request):
    """With the real loader, whose random crops are drawn and resized inside the graph."""
    save_colours(tmp_path / "data", per_class=4 * STEPS_PER_GRAPH, size=80)
    loader = create_loader(
        data_path=tmp_path / "data", input_size=(64,), batch_size=8, cache="device", device="cuda",
        tell=False,
    )  # fmt: skip
    count = len(loader)
    losses = []
    for longest in (1, STEPS_PER_GRAPH):
        torch.manual_seed(0)
        objective = MAE(create_model("mae_vit_tiny_patch8", img_size=64)).cuda()
        step = make_step(objective, ResidentStep, 1)
        assert step.prepare_whole(loader.resident, 0, longest) and step.failure is None
        loader.resident.begin(0, 0)
        losses.append(step.take([1e-3] * count))
    torch.testing.assert_close(*losses, rtol=2e-3, atol=0)
    loader.resident.begin(1, 0)
    request.getfixturevalue("no_sync")
    step.take([1e-3] * count)


def test_graphs_of_many_steps_need_little_more_memory(make_batch):
    """They share it with the graph of one step."""
    needed = {}
    for longest in (1, STEPS_PER_GRAPH):
        objective = MAE(create_model("mae_vit_tiny_patch8", img_size=64)).cuda()
        step = make_step(objective, ResidentStep, 1)
        source = source_of([make_batch(64, (64, 64)).to("cuda") for _ in range(4)])
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        assert step.prepare_whole(source, 0, longest)
        torch.cuda.empty_cache()
        needed[longest] = torch.cuda.memory_reserved() - before
    assert needed[STEPS_PER_GRAPH] < 1.3 * needed[1]
