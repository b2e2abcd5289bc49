"""One optimizer step: never waits, and is the same recorded or not, compiled or not."""

import contextlib
import copy
import functools
import itertools
import weakref

import built_in
import pytest
import torch
from built_in import OBJECTIVES
from slow_teacher import SlowTeacher
from tape import record_on_tape
from torch import Tensor, nn

from fastimae.engine import step as module
from fastimae.engine.blocks import blocks, compile_blocks, recompute_blocks
from fastimae.engine.graph import causes
from fastimae.engine.optim import build_optimizer
from fastimae.engine.replica import Replica
from fastimae.engine.step import GraphedStep, Step
from fastimae.kernels import _colors
from fastimae.models import create_model
from fastimae.objectives import Objective

CPU = torch.device("cpu")
MODEL = {
    "name": "mae_vit_nano_patch8", "img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2,
    "decoder_embed_dim": 32, "decoder_num_heads": 2,
}  # fmt: skip


def build(kind):
    if kind == "odd":
        return Odd()
    if kind == "slow":
        student = create_model(**MODEL)
        return SlowTeacher(student, mask_ratio=0.75, mask_patch_size=None, momentum=0.9)
    return built_in.build(kind, functools.partial(create_model, **MODEL))


class Odd(Objective):
    """Draws random numbers, keeps a mean in a buffer, and has an unused parameter."""

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(3, 2)
        self.student.unused = nn.Parameter(torch.ones(2, 2))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, batch):
        x = batch.images.float().mean((1, 2)) / 255
        self.mean.lerp_(x.mean(0).detach(), 0.1)
        x = (x - self.mean + torch.rand(3)).to(self.student.weight.dtype)
        loss = self.student(x).square().mean()
        return {"loss": loss, "half": loss / 2}


def make_step(objective, kind=Step, *, for_graph=False, precision="fp32", **settings):
    optimizer = build_optimizer(objective, 1e-3, 0.05)
    if for_graph:  # as on CUDA, where the fused optimizer needs a tensor
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(1e-3)
            group["fused"] = False
    return kind(objective, optimizer, precision=precision, device=CPU, **settings)


def make_recorded(objective, *, for_graph=True, **settings):
    """Return a step that records as on CUDA."""
    step = make_step(objective, GraphedStep, for_graph=for_graph, **settings)
    step.record = as_cuda(step)
    return step


def leaves(step):
    """Return all tensors that backward computes gradients of."""
    return [*step.objective.parameters(), *(step.copies.of.values() if step.copies else ())]


def as_cuda(step):
    """Record as CUDA does: nothing runs yet; gradients stay in their current memory, which
    something must keep alive; and a replay writes its result where the first one did."""

    def record(function):
        places = [(p, weakref.ref(p.grad)) for p in leaves(step) if p.grad is not None]
        results = []

        def replay():
            with in_their_places(step, places):
                result = function()
            if result is None:
                return None
            if not results:
                results.append(result)
            return results[0].copy_(result)

        return replay

    return record


@contextlib.contextmanager
def in_their_places(step, places):
    """Return a graph's gradients."""
    others = [(p, p.grad) for p in leaves(step)]
    for parameter, _ in others:
        parameter.grad = None
    for parameter, place in places:
        parameter.grad = place()
        assert parameter.grad is not None, "its memory is gone"
    yield
    assert all(parameter.grad is place() for parameter, place in places), "it has moved"
    for parameter, other in others:
        parameter.grad = other


def weights(objective):
    return torch.cat([p.detach().flatten() for p in objective.student.parameters()])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("make", [make_step, make_recorded])
def test_a_step_never_waits_for_the_device(make, kind, precision, make_batch, monkeypatch):
    settings = {"precision": precision, "clip_grad": 1.0, "accum_iter": 2}
    step = make(build(kind), for_graph=False, **settings)
    batches = [make_batch(4), make_batch(4)]
    step(batches, 1e-3)  # the optimizer's first step creates its state

    def wait(*_, **__):
        raise AssertionError("the host waits for the device")

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(Tensor, name, wait)
    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    # Jitter on a CPU asks which orders occur; its kernel does not.
    monkeypatch.setattr(_colors, "change_on_cpu", lambda *args: args[-1].zero_())
    parts = step(batches, 1e-3)
    monkeypatch.undo()
    assert all(part.isfinite() for part in parts[1].values())


EVERY = list(itertools.product(("mae", "odd", "slow"), (1, 2), ("fp32", "bf16")))
OTHERS = [(kind, *case) for kind in OBJECTIVES for case in ((1, "fp32"), (2, "bf16"))]


@pytest.mark.parametrize(("kind", "accum_iter", "precision"), sorted({*EVERY, *OTHERS}))
def test_recorded_steps_equal_plain_ones(kind, accum_iter, precision, make_batch):
    """Equal bits with accumulation, clipping, a schedule and changing mixing ratios, even if the
    losses are only read at the end. One graph, or two with accumulation."""
    first = build(kind)
    settings = {"clip_grad": 0.5, "accum_iter": accum_iter, "precision": precision}
    plain = make_step(first, for_graph=True, **settings)
    recorded = make_recorded(copy.deepcopy(first), **settings)
    losses = []
    for number in range(3):
        batches, lr = [make_batch(4) for _ in range(accum_iter)], 1e-3 * (number + 1)
        for step in (plain, recorded):
            torch.manual_seed(number)
            own = copy.deepcopy(batches)
            losses.append(step(own, lr))
            for batch in own:
                batch.images.zero_()  # the caller may reuse its buffers
    assert len(recorded.replays) == accum_iter
    assert losses[0::2] == losses[1::2]
    states = recorded.objective.state_dict(), first.state_dict()
    assert all(map(torch.equal, *(state.values() for state in states)))


@pytest.mark.parametrize("taken", [0, 3])
def test_recording_changes_nothing(taken, make_batch):
    """For a fresh and for a resumed step; afterwards, a fresh one has its moments."""
    objective, batch, other = build("odd"), make_batch(4), make_batch(4)
    before = make_step(objective, for_graph=True)
    for _ in range(taken):
        before([batch], 1e-3)
    step = make_recorded(objective, clip_grad=0.5)
    step.optimizer.load_state_dict(before.optimizer.state_dict())
    rates = [group["lr"] for group in step.optimizer.param_groups]
    expected = copy.deepcopy((objective.state_dict(), step.optimizer.state_dict()))
    numbers = torch.get_rng_state()

    step.prepare(other)
    assert step.replays
    model, optimizer = expected
    assert all(torch.equal(objective.state_dict()[name], value) for name, value in model.items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(p.grad is None for p in objective.parameters())
    groups = step.optimizer.param_groups
    assert all(group["lr"] is rate for group, rate in zip(groups, rates, strict=True))
    state = step.optimizer.state_dict()["state"]
    assert len(state) == 2, "the unused parameter has none"
    for number, moments in state.items():
        for name, value in moments.items():
            old = optimizer["state"][number][name] if taken else torch.zeros_like(value)
            assert torch.equal(value, old), name


@pytest.mark.parametrize("make", [make_step, make_recorded])
def test_what_moves_after_an_update_moves_once_a_step(make, make_batch):
    """By the student's new weights. It stays fp32 even if the student computes in bf16."""
    objective = build("slow")
    step = make(objective, precision="bf16", accum_iter=2)
    expected = objective.teacher.cls_token.clone()
    for number in range(3):
        step([make_batch(4), make_batch(4)], 1e-4)
        expected = expected.lerp(objective.student.cls_token.detach(), 0.1)
        assert torch.equal(objective.teacher.cls_token, expected)
        assert objective.updates == number + 1
    assert expected.dtype == torch.float32
    assert not torch.equal(expected, expected.bfloat16().float())


@pytest.mark.parametrize("saved", ["all", "nothing"])
def test_recording_moves_nothing_but_moments(saved, make_batch):
    """Although a dry run updates, and `after_update` would move the teacher even if no weight
    moves; whatever checkpoints hold of it."""
    objective = build("slow")
    if saved == "nothing":
        objective.extra_state = dict
    with torch.no_grad():
        objective.teacher.cls_token += 1
    before = copy.deepcopy(objective.state_dict())
    step = make_recorded(objective, for_graph=True)
    step.prepare(make_batch(4))
    assert step.replays
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())


def test_a_recorded_step_shares_its_objective_with_others(make_batch):
    """Plain steps in between do not change its gradients, nor it theirs."""
    first = build("mae")
    second = copy.deepcopy(first)
    plain, batch = make_step(first, for_graph=True), make_batch(4)
    recorded, between, again = (
        make_recorded(second), make_step(second, for_graph=True), make_recorded(second),
    )  # fmt: skip
    between.optimizer = again.optimizer = recorded.optimizer
    for _ in range(2):
        for step in (recorded, between, again):
            assert plain([batch], 1e-3) == step([batch], 1e-3)
    assert torch.equal(weights(second), weights(first))


@pytest.mark.parametrize("successes", [0, 1])
def test_where_recording_fails_training_goes_on(successes, make_batch, monkeypatch):
    """With one line that names the cause, and without the graphs recorded before."""
    said, freed, works = [], [], []
    monkeypatch.setattr(module.log, "warning", lambda *words: said.append(words))
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: freed.extend(work() is None for work in works)
    )

    def fail(function):
        work = torch.zeros(3)
        works.append(weakref.ref(work))
        if len(works) <= successes:
            return lambda: work
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTry less")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture\nmore")

    first, count = build("mae"), successes + 1
    plain, recorded = (
        make_step(first, for_graph=True, accum_iter=count),
        make_step(copy.deepcopy(first), GraphedStep, for_graph=True, accum_iter=count),
    )
    recorded.record = fail
    for _ in range(3):
        batches = [make_batch(4)] * count
        assert plain(batches, 1e-3) == recorded(batches, 1e-3)
    assert torch.equal(weights(recorded.objective), weights(first))
    ((message, reason),) = said
    assert "without CUDA graphs" in message and "\n" not in reason
    assert reason.startswith("OutOfMemoryError: CUDA out of memory. -> RuntimeError: operation")
    assert isinstance(causes(recorded.failure)[0], torch.OutOfMemoryError)
    assert freed == [True] * (successes + 1)


def test_an_objective_that_fails_is_the_callers(make_batch):
    """Its error is not a failure of recording, and nothing has changed."""
    objective = build("odd")
    step, before = make_recorded(objective), copy.deepcopy(objective.state_dict())
    step.replica = Replica(lambda batch: [objective(batch), 1 / 0])
    with pytest.raises(ZeroDivisionError):
        step.prepare(make_batch(4))
    assert step.failure is None and not step.prepared
    assert all(torch.equal(objective.state_dict()[name], value) for name, value in before.items())


def compiled(objective):
    compile_blocks(objective, "aot_eager")


def recomputed_and_compiled(objective):
    recompute_blocks(objective)
    compiled(objective)


@pytest.mark.parametrize(
    ("change", "kind", "precision"),
    [
        (recompute_blocks, "imae", "fp32"), (recompute_blocks, "imae", "bf16"),
        (compiled, "mae", "bf16"), (recomputed_and_compiled, "mae", "fp32"),
    ],
)  # fmt: skip
def test_regions_change_nothing_but_the_cost(change, kind, precision, make_batch):
    plain, changed = build(kind), build(kind)
    changed.load_state_dict(plain.state_dict())
    models = {"mae": 1, "imae": 2}[kind]
    assert len(list(blocks(plain))) == models * (2 + 1)
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


def test_blocks_lie_in_no_others():
    """FSDP can shard neither a list nor a block inside a block."""
    layers = [nn.Linear(2, 2) for _ in range(6)]
    stages = nn.ModuleList([nn.ModuleList(layers[:2]), nn.Sequential(*layers[2:4])])
    block = nn.Module()
    block.inside = nn.ModuleList(layers[4:])
    module = nn.ModuleDict({"stages": stages, "list": nn.ModuleList([block])})
    assert list(blocks(module)) == [*layers[:4], block]
    assert list(blocks(stages)) == layers[:4]


class Scaled(nn.Module):
    """A block."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.weight


def test_a_process_may_train_one_model_after_another():
    """Each is compiled anew; with torch's limit, the ninth would be an error."""
    torch.compiler.reset()
    for size in range(1, 12):
        model, x = nn.Sequential(Scaled(), Scaled()), torch.rand(size, 2)
        compile_blocks(model, "eager")
        assert torch.equal(model(x), x)


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


def test_recomputed_blocks_keep_one_tensor_each():
    """The sum that enters a block, not its summands."""
    model = create_model(**MODEL)
    recompute_blocks(model)
    x, sizes = torch.randn(4, 17, 32, requires_grad=True), {}
    change, bias = torch.zeros_like(x), torch.zeros(32)

    def note(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        for block in model.blocks:
            x, change, bias = block(x, change, bias)
    assert sum(sizes.values()) == len(model.blocks) * x.nbytes


class Beside(Objective):
    """`after_update` moves a trained module and a teacher."""

    def __init__(self):
        super().__init__()
        self.student, self.head, self.teacher = (nn.Linear(3, 3) for _ in range(3))
        self.teacher.requires_grad_(False)

    def trainable(self):
        return {"student": self.student, "head": self.head}

    def forward(self, batch):
        x = (batch.images.float().mean((1, 2)) / 255).to(self.student.weight.dtype)
        target = self.teacher(x).float()
        return {"loss": (self.head(self.student(x)).float() - target).square().mean()}

    def after_update(self):
        self.head.weight.lerp_(self.student.weight, 0.5)
        self.teacher.weight.lerp_(self.student.weight, 0.5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("accum_iter", [1, 2])
@pytest.mark.parametrize("kind", ["beside", "odd", "slow"])
def test_a_replay_needs_no_python(kind, accum_iter, precision, make_batch):
    """As on CUDA, also if `after_update` changes masters."""
    torch.manual_seed(0)
    first = Beside() if kind == "beside" else build(kind)
    settings = {"for_graph": True, "clip_grad": 0.5, "accum_iter": accum_iter}
    plain = make_step(first, precision=precision, **settings)
    recorded = make_step(copy.deepcopy(first), GraphedStep, precision=precision, **settings)
    recorded.record = functools.partial(record_on_tape, recorded)
    recorded.prepare(make_batch(4))
    for number in range(4):
        batches = [make_batch(4) for _ in range(accum_iter)]
        losses = []
        for step in (plain, recorded):
            torch.manual_seed(number)
            losses.append(step(copy.deepcopy(batches), 1e-2))
        assert losses[0] == losses[1], number
    assert len(recorded.replays) == accum_iter
    states = recorded.objective.state_dict(), first.state_dict()
    assert all(map(torch.equal, *(state.values() for state in states)))
