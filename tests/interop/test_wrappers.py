"""What people wrap models in: compilers, DDP, checkpoints of whole models, trainers' inspection."""

import copy
import inspect
import io

import pytest
import torch
from interop.foreign_maes import PaperMAE, PlainBlock
from interop.twins import is_swapped
from torch import nn

import fastimae


def net():
    torch.manual_seed(1)
    return nn.Sequential(PlainBlock(48, 3), nn.Linear(48, 4))


@pytest.fixture
def tokens():
    return torch.randn(3, 7, 48)


def test_compiled_before_any_call_is_the_original(tokens, caplog):
    """One warning says what to do; after an eager call, ours is compiled."""
    model = fastimae.accelerate(net(), measure=False)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = net()(tokens)
    torch.testing.assert_close(compiled(tokens), expected)
    compiled(tokens)
    assert not model.fastimae_report.swapped
    assert len({m for m in caplog.messages if "Call it once first" in m}) == 1
    caplog.clear()
    model(tokens)
    assert len(model.fastimae_report.swapped) == 3
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=keep)
    torch.testing.assert_close(compiled(tokens), expected, rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    assert not [each for each in caplog.records if each.levelname == "WARNING"]


def test_ddp(tokens):
    """Trials in DDP's forward do not touch its reducer: gradients arrive, hooks see each once."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model, plain = fastimae.accelerate(net(), measure=False), net()
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            for one in (wrapped, plain):
                one.zero_grad()
                one(tokens).square().sum().backward()
            for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        assert len(model.fastimae_report.swapped) == 3
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("called", [False, True])
def test_whole_models_are_saved_and_copied(called, imgs):
    """Before the first call and after it; the copy's parts are its own."""
    model = fastimae.accelerate(PaperMAE(), measure=False)
    if called:
        model(imgs)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for again in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert list(again.state_dict()) == list(PaperMAE().state_dict())
        again(imgs)
        site = again.blocks[0].attn.forward
        assert is_swapped(again.blocks[0].attn) and site.module is again.blocks[0].attn
        assert site is not model.blocks[0].attn.forward and site in again.fastimae_report.sites
        assert "forward" not in vars(again) and ("forward" in vars(model)) != called
        assert fastimae.restore(again).state_dict().keys() == model.state_dict().keys()
        assert installed_names(again) == set() and installed_names(model)


def installed_names(model):
    names = "forward", "forward_loss"
    return {name for module in model.modules() for name in names if name in vars(module)}


def test_signatures_are_those_of_the_original(imgs):
    """Trainers choose columns of a data set by them."""
    model = fastimae.accelerate(PaperMAE())
    expected = inspect.signature(PaperMAE().forward)
    assert inspect.signature(model.forward) == expected
    model(imgs)
    assert inspect.signature(model.forward) == expected
    assert [*inspect.signature(model.forward_loss).parameters] == ["imgs", "pred", "mask"]


def test_the_table_is_logged_once(imgs, caplog):
    model = fastimae.accelerate(PaperMAE(), measure=False)
    with caplog.at_level("INFO", "fastimae"):
        model(imgs), model(imgs)
    (table,) = (text for text in caplog.messages if "what became of PaperMAE" in text)
    assert str(model.fastimae_report) in table and "blocks.*.attn (2)" in table


def test_a_first_call_that_fails_is_none(imgs):
    model = fastimae.accelerate(PaperMAE(), measure=False)
    with pytest.raises(RuntimeError):
        model(imgs[:, :2])
    assert "forward" in vars(model) and model.fastimae_report.seconds is None
    model(imgs)
    assert "forward" not in vars(model) and model.fastimae_report.seconds > 0


def test_the_models_own_forward_stays(imgs):
    """Something else replaced it before: it is called, and the table is not logged."""
    model = PaperMAE()
    model.forward = lambda imgs: PaperMAE.forward(model, imgs)
    own = model.forward
    fastimae.accelerate(model, measure=False)
    model(imgs)
    assert model.forward is own and "forward_encoder" in model.fastimae_report.swapped
    assert fastimae.restore(model).forward is own


def test_transforms_run_the_original(tokens):
    """Our ops have no rule for some of them, so nothing is tried or swapped in them."""
    model, plain = fastimae.accelerate(net(), measure=False), net()
    loss = lambda one: lambda p: torch.func.functional_call(one, p, (tokens,)).sum()  # noqa: E731
    for swapped in (0, 3):
        assert len(model.fastimae_report.swapped) == swapped
        for one in (model, plain):
            one.found = [
                *torch.func.grad(loss(one))(dict(one.named_parameters())).values(),
                torch.func.vmap(lambda x, one=one: one(x[None])[0])(tokens),
                torch.func.jvp(one, (tokens,), (tokens,))[1],
            ]
        for ours, theirs in zip(model.found, plain.found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert len(model.fastimae_report.swapped) == swapped
        model(tokens)
    assert model.to("meta")(tokens.to("meta")).shape == (3, 7, 4)


def test_a_trial_that_cannot_run_does_not_stop_the_call(tokens, monkeypatch):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("fastimae.foreign_models.trial.compare_times", out_of_memory)
    model = fastimae.accelerate(net())
    assert torch.equal(model(tokens), net()(tokens))
    monkeypatch.undo()
    assert model.fastimae_report.waiting == ["0.attn"]
    model(tokens)
    assert not model.fastimae_report.waiting
