"""One pass over parameters and bf16 copies gives the numbers of torch's AdamW."""

import copy

import pytest
import torch

from fastimae.engine.one_pass_adamw import OnePassAdamW, clip_scale
from fastimae.engine.optim import build_optimizer, load_optimizer, optimizer_state
from fastimae.engine.step import Step
from fastimae.engine.weight_copies import WeightCopies
from fastimae.models import MaskedAutoencoder
from fastimae.objectives import MAE

CPU = torch.device("cpu")
SIZES = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def make_step(objective, *, one_pass=True, precision="bf16", **settings):
    optimizer = build_optimizer(objective, 1e-3, 0.05, one_pass=one_pass)
    return Step(objective, optimizer, precision=precision, device=CPU, **settings)


def mae():
    torch.manual_seed(0)
    return MAE(MaskedAutoencoder(**SIZES))


@pytest.mark.parametrize(
    ("precision", "accum_iter", "count"),
    [("fp32", 1, 100), ("bf16", 1, 30), ("fp32", 3, 8), ("bf16", 3, 8)],
)
def test_steps_have_the_bits_of_torchs_adamw(precision, accum_iter, count, make_batch):
    """In bf16, the same bits as casts through autograd and their gradients."""
    ours, torchs = mae(), mae()
    steps = [
        make_step(objective, one_pass=objective is ours, precision=precision, accum_iter=accum_iter)
        for objective in (ours, torchs)
    ]
    assert type(steps[1].optimizer) is torch.optim.AdamW and steps[1].copies is None
    for number in range(count):
        batches = [make_batch(4) for _ in range(accum_iter)]
        losses = [step(batches, 1e-3 / (1 + number % 7)) for step in steps]
        assert losses[0] == losses[1], number
    assert all(map(torch.equal, ours.state_dict().values(), torchs.state_dict().values()))


def test_clipped_steps_are_torchs(make_batch):
    """Except for the order in which squared norms are added."""
    steps = [make_step(mae(), one_pass=one_pass, clip_grad=0.1) for one_pass in (True, False)]
    for _ in range(10):
        batch = make_batch(4)
        ours, torchs = (step([batch], 1e-3)[0]["loss"] for step in steps)
        torch.testing.assert_close(ours, torchs, rtol=1e-3, atol=0)
    start = torch.nn.utils.parameters_to_vector(mae().parameters())
    ours, torchs = (
        torch.nn.utils.parameters_to_vector(step.objective.parameters()) - start for step in steps
    )
    assert (ours - torchs).norm() < 0.01 * torchs.norm()


@pytest.mark.parametrize("first", ["ours", "torchs"])
def test_either_goes_on_from_the_others_state(first, make_batch):
    whole, half = mae(), mae()
    own = make_step(whole, one_pass=first == "ours")
    for _ in range(3):
        batch = make_batch(4)
        own([batch], 1e-3)
    half.load_state_dict(whole.state_dict())
    other = make_step(half, one_pass=first != "ours")
    load_optimizer(other.optimizer, copy.deepcopy(optimizer_state(own.optimizer)))
    for _ in range(3):
        batch = make_batch(4)
        assert own([batch], 1e-3) == other([batch], 1e-3)
    saved = [step.optimizer.state_dict() for step in (own, other)]
    torch.testing.assert_close(saved[0]["state"], saved[1]["state"], rtol=0, atol=0)
    assert saved[0]["param_groups"] == saved[1]["param_groups"]


def load(objective, weights):
    objective.load_state_dict(weights)


def assign(objective, weights):
    for name, parameter in objective.named_parameters():
        parameter.data = weights[name].clone()


@pytest.mark.parametrize("change", [load, assign])
def test_masters_that_somebody_changes_are_what_computes(change, make_batch):
    objective, other = mae(), mae()
    step, batch = make_step(objective), make_batch(4)
    step([batch], 1e-3)
    expected = make_step(other)([batch], 1e-3)
    change(objective, mae().state_dict())
    assert step([batch], 1e-3) == expected


def test_a_step_neither_casts_masters_nor_their_gradients(make_batch):
    objective = mae()
    step, batch = make_step(objective), make_batch(4)
    step([batch], 1e-3)
    with torch.profiler.profile(record_shapes=True) as profile:
        step._forward_backward(batch)
    sizes = {tuple(p.shape) for p in objective.parameters() if p.requires_grad and p.ndim > 1}
    casts = [
        event.input_shapes[0]
        for event in profile.events()
        if event.name == "aten::_to_copy" and tuple(event.input_shapes[0]) in sizes
    ]
    assert not casts
    kinds = {copy.grad.dtype for copy in step.copies.of.values()}
    assert kinds == {torch.bfloat16}
    assert all(p.grad is None for p in objective.parameters())


def test_copies_leave_the_module_as_it_was():
    objective = mae()
    before = dict(objective.named_parameters())
    copies = WeightCopies(objective, torch.bfloat16)
    with copies.in_place():
        assert objective.student.cls_token is copies.of[before["student.cls_token"]]
        fixed = objective.student.pos_embed
        assert fixed.dtype == torch.bfloat16 and not fixed.requires_grad
    assert all(p is before[name] for name, p in objective.named_parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clipping_is_torchs(dtype):
    gradients = [torch.randn(5, 3, dtype=dtype), torch.randn(7) * 10]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for limit in (0.5, 1e6):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_(parameters, limit)
        factor = clip_scale(gradients, limit)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(gradient * factor, parameter.grad)


def test_parameters_without_a_gradient_stay(make_batch):
    """As with torch's AdamW, they do not decay and get no moments."""
    weights = [torch.nn.Parameter(torch.ones(2, 8)) for _ in range(2)]
    optimizer = OnePassAdamW([{"params": weights, "weight_decay": 0.5}], lr=0.1)
    weights[0].grad = torch.ones(2, 8)
    optimizer.step()
    assert (weights[1] == 1).all() and weights[1] not in optimizer.state
    assert (weights[0] != 1).all()


def freeze(objective, *_):
    objective.student.cls_token.requires_grad_(False)


def hook(objective, *_):
    objective.student.cls_token.register_hook(lambda gradient: gradient * 0.5)


def hook_afterwards(objective, *_):
    def halve(parameter):
        parameter.grad /= 2

    objective.student.cls_token.register_post_accumulate_grad_hook(halve)


def schedule_betas(_, step, __):
    for group in step.optimizer.param_groups:
        group.update(betas=(0.8, 0.9), eps=1e-4)


def fail(objective, step, batch):
    """Fail a pass after the gradients of some parameters are computed; the caller continues."""
    handle = objective.student.cls_token.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step([batch], 1e-3)
    handle.remove()


@pytest.mark.parametrize("accum_iter", [1, 2])
@pytest.mark.parametrize("change", [freeze, hook, hook_afterwards, schedule_betas, fail])
def test_what_a_user_does_on_the_way_is_as_with_torchs(change, accum_iter, make_batch):
    ours, torchs = mae(), mae()
    steps = [make_step(o, one_pass=o is ours, accum_iter=accum_iter) for o in (ours, torchs)]
    for number in range(4):
        batches = [make_batch(4) for _ in range(accum_iter)]
        for step in steps:
            if number == 2:
                change(step.objective, step, batches[0])
            step(batches, 1e-3)
    assert all(map(torch.equal, ours.state_dict().values(), torchs.state_dict().values()))


def test_a_pass_that_fails_leaves_nothing(make_batch):
    whole, other = mae(), mae()
    step, batch = make_step(whole), make_batch(4)
    fail(whole, step, make_batch(4))
    assert all(x.grad is None for x in (*whole.parameters(), *step.copies.of.values()))
    assert all(type(p) is torch.nn.Parameter for p in whole.parameters())
    step([batch], 1e-3)
    make_step(other)([batch], 1e-3)
    assert all(map(torch.equal, whole.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_format_are_updated_as_by_torchs(dtype):
    weights = [
        [torch.nn.Parameter(torch.ones(3, 4, dtype=d)) for d in (dtype, torch.float32)]
        for _ in range(2)
    ]
    optimizers = [OnePassAdamW([{"params": weights[0]}]), torch.optim.AdamW(weights[1], fused=True)]
    for number in range(1, 4):
        for optimizer, parameters in zip(optimizers, weights, strict=True):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, number)
            optimizer.step()
    assert all(map(torch.equal, *weights))


def test_a_deep_copy_of_a_step_trains_on_its_own(make_batch):
    objective, batches = mae(), [make_batch(4) for _ in range(4)]
    step = make_step(objective, clip_grad=0.1)
    step(batches[:1], 1e-3)
    other = copy.deepcopy(step)
    for batch in batches[1:]:
        assert step([batch], 1e-3) == other([batch], 1e-3)
    assert all(
        map(torch.equal, objective.state_dict().values(), other.objective.state_dict().values())
    )


def test_scaled_gradients_are_scaled_back():
    weights = [torch.nn.Parameter(torch.ones(8)) for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for weight, kind in zip(weights, (OnePassAdamW, torch.optim.AdamW), strict=True):
        optimizer = kind([{"params": [weight]}], eps=1.0)
        scaler.scale(weight.square().sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("name", ["amsgrad", "maximize"])
@pytest.mark.parametrize("where", ["all", "group"])
def test_what_the_pass_cannot_is_an_error(name, where):
    group, settings = {"params": [torch.nn.Parameter(torch.ones(2))]}, {name: True}
    with pytest.raises(ValueError, match=f"OnePassAdamW has no {name}"):
        if where == "all":
            OnePassAdamW([group], **settings)
        else:
            OnePassAdamW([group | settings])
