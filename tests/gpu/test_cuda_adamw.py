"""The parameter update on a real GPU, against torch's, eagerly and from a captured graph."""

import pytest
import torch

from fastimae.engine.graph import record_cuda_graph
from fastimae.kernels.adamw import BLOCK, AdamWUpdate, ParameterTensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SHAPES = [(768, 768), (768,), (588,), (BLOCK + 1,), (), (3, 5), (4 * BLOCK,)]
DECAY, BETAS, EPS = 0.05, (0.9, 0.95), 1e-8


class Ours:
    """Parameters that our kernel updates, and their copies."""

    def __init__(self, device):
        torch.manual_seed(0)
        self.masters = [torch.randn(shape, device=device) for shape in SHAPES]
        self.moments = [(torch.zeros_like(x), torch.zeros_like(x)) for x in self.masters]
        self.steps = [torch.zeros((), device=device) for _ in SHAPES]
        self.copies = [x.bfloat16() for x in self.masters]
        self.update = AdamWUpdate()

    def step(self, gradients, lr, scale):
        columns = self.masters, gradients, *zip(*self.moments, strict=True), self.steps, self.copies
        rows = zip(*columns, strict=True)
        self.update(
            [ParameterTensors(*row, lr, DECAY) for row in rows], scale, betas=BETAS, eps=EPS
        )


def drawn(dtype, device):
    return [torch.randn(shape, device=device).to(dtype) for shape in SHAPES]


def check_against_torch(ours, steps, scale):
    """Compare with torch. steps: our update and its gradients, which torch gets scaled."""
    parameters = [torch.nn.Parameter(x.clone()) for x in ours.masters]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-3, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    for take, gradients in steps:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.float() * scale
        optimizer.step()
        take()
    for mine, copy, parameter in zip(ours.masters, ours.copies, parameters, strict=True):
        torch.testing.assert_close(mine, parameter.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(copy, mine.bfloat16())
    assert all(step == len(steps) for step in ours.steps)


def test_graphs_of_one_update_have_separate_tensors(device="cuda"):
    """A later capture does not overwrite what the earlier graph reads."""
    lr, scale = torch.tensor(1e-3, device=device), torch.tensor(0.5, device=device)
    update, both = AdamWUpdate(), []
    for _ in range(2):
        ours, fixed = Ours(device), drawn(torch.bfloat16, device)
        rehearsed = Ours(device)
        ours.update = rehearsed.update = update
        rehearsed.step(drawn(torch.bfloat16, device), lr, scale)
        replay = record_cuda_graph(lambda o=ours, g=fixed: o.step(g, lr, scale))
        both.append((ours, replay, fixed))
    for ours, replay, fixed in both:
        check_against_torch(ours, [(replay, fixed)] * 3, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tensor_rate", [False, True])
def test_a_hundred_steps_are_torchs(dtype, tensor_rate, device="cuda"):
    ours, scale = Ours(device), torch.tensor(0.5, device=device)
    lr = torch.tensor(1e-3, device=device) if tensor_rate else 1e-3
    drawings = [drawn(dtype, device) for _ in range(100)]
    check_against_torch(ours, [(lambda g=g: ours.step(g, lr, scale), g) for g in drawings], scale)


def test_a_captured_update_reaches_its_tensors_after_updates_of_others(device="cuda"):
    """Gradients of a captured step are at other addresses than those of its rehearsal."""
    ours, scale = Ours(device), torch.tensor(0.5, device=device)
    lr, fixed = torch.tensor(0.0, device=device), drawn(torch.bfloat16, device)
    rehearsed = Ours(device)
    rehearsed.update = ours.update  # with its tables
    rehearsed.step(drawn(torch.bfloat16, device), lr, scale)
    replay = record_cuda_graph(lambda: ours.step(fixed, lr, scale))
    rehearsed.step(drawn(torch.bfloat16, device), lr, scale)
    lr.fill_(1e-3)

    def take(gradients):
        for mine, gradient in zip(fixed, gradients, strict=True):
            mine.copy_(gradient)
        replay()

    drawings = [drawn(torch.bfloat16, device) for _ in range(10)]
    check_against_torch(ours, [(lambda g=g: take(g), g) for g in drawings], scale)
