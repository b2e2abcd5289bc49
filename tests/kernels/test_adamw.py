"""AdamW in one pass: Triton's interpreter and torch against the published algorithm and torch's."""

import pytest
import torch

from fastimae.kernels import _adamw_chunks
from fastimae.kernels.adamw import BLOCK, AdamWUpdate, ParameterTensors

BETAS, EPS = (0.9, 0.95), 1e-8
HOW = {"betas": BETAS, "eps": EPS}
SHAPES = [(3, 5), (64, 64), (BLOCK + 1,), (), (8,), (2 * BLOCK,)]
DECAYS = [0.05, 0.05, 0.0, 0.0, 0.3, 0.0]
RATES = [1e-3, 1e-3, 1e-2, 1e-3, 1e-2, 1e-3]


class Run:
    """Parameters of several shapes, with gradients that do not depend on the implementation."""

    def __init__(self, impl, *, dtype=torch.float32, copies=None, scale=None):
        generator = torch.Generator().manual_seed(0)
        self.masters = [torch.randn(shape, generator=generator) for shape in SHAPES]
        self.first, self.second = ([torch.zeros(s) for s in SHAPES] for _ in range(2))
        self.steps = [torch.tensor(0.0) for _ in SHAPES]
        self.copies = [torch.empty(s, dtype=copies) if copies else None for s in SHAPES]
        self.update, self.dtype, self.scale = AdamWUpdate(impl=impl), dtype, scale

    def step(self, number):
        rates = map(torch.tensor, RATES) if self.update.impl == "triton" else RATES
        columns = (
            self.masters, gradients(number, self.dtype), self.first, self.second, self.steps,
            self.copies, rates, DECAYS,
        )  # fmt: skip
        scale = None if self.scale is None else torch.tensor(self.scale)
        self.update([ParameterTensors(*row) for row in zip(*columns, strict=True)], scale, **HOW)

    def state(self):
        return [*self.masters, *self.first, *self.second]


def gradients(number, dtype):
    generator = torch.Generator().manual_seed(100 + number)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def published(steps, dtype, scale=1.0):
    """Run algorithm 2 of Loshchilov and Hutter (2019) in float64; decay times rate, as in torch."""
    weights = [x.double() for x in Run("torch").masters]
    first, second = ([torch.zeros_like(x) for x in weights] for _ in range(2))
    for t in range(1, steps + 1):
        for i, gradient in enumerate(gradients(t, dtype)):
            g = gradient.double() * scale
            first[i] = BETAS[0] * first[i] + (1 - BETAS[0]) * g
            second[i] = BETAS[1] * second[i] + (1 - BETAS[1]) * g**2
            m, v = first[i] / (1 - BETAS[0] ** t), second[i] / (1 - BETAS[1] ** t)
            weights[i] = weights[i] - RATES[i] * (m / (v.sqrt() + EPS) + DECAYS[i] * weights[i])
    return [*weights, *first, *second]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("impl", ["triton", "torch"])
def test_twenty_steps_are_as_published(impl, dtype):
    run = Run(impl, dtype=dtype, copies=torch.float16, scale=0.5)
    for number in range(1, 21):
        run.step(number)
    for mine, exact in zip(run.state(), published(20, dtype, 0.5), strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=2e-5, atol=2e-6)
    for copy, master in zip(run.copies, run.masters, strict=True):
        torch.testing.assert_close(copy.float(), master, rtol=1e-3, atol=1e-6)
    assert all(step == 20 for step in run.steps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_chunks_are_bit_equal_to_torchs_adamw(dtype):
    run, other = Run("torch", dtype=dtype, copies=torch.bfloat16), Run("torch")
    parameters = [torch.nn.Parameter(x) for x in other.masters]
    groups = [
        {"params": [p], "lr": lr, "weight_decay": decay}
        for p, lr, decay in zip(parameters, RATES, DECAYS, strict=True)
    ]
    optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)
    for number in range(1, 21):
        run.step(number)
        for parameter, gradient in zip(parameters, gradients(number, dtype), strict=True):
            parameter.grad = gradient.float()
        optimizer.step()
    assert all(map(torch.equal, run.masters, parameters))
    assert all(map(torch.equal, run.copies, [p.detach().bfloat16() for p in parameters]))


def test_the_kernel_writes_nothing_but_these_tensors():
    """Memory behind a tensor stays untouched, even if its size is no multiple of a block."""
    run = Run("triton", copies=torch.float16)
    around = torch.full((4 * BLOCK,), 7.0)
    run.masters[2] = around[BLOCK : 2 * BLOCK + 1]
    run.step(1)
    assert (around[:BLOCK] == 7).all() and (around[2 * BLOCK + 1 :] == 7).all()
    assert (around[BLOCK : 2 * BLOCK + 1] != 7).all()


def test_tensors_may_move_between_updates():
    """As moments do when a checkpoint is loaded: the current addresses are used."""
    still, moved = Run("triton"), Run("triton")
    for number in range(1, 4):
        still.step(number)
        moved.step(number)
        for name in ("masters", "first", "second"):
            setattr(moved, name, [x.clone() for x in getattr(moved, name)])
    assert all(map(torch.equal, still.state(), moved.state()))


@pytest.mark.parametrize(
    "master", [torch.zeros(9)[1:], torch.zeros(4, 4).t()[:, :2], torch.zeros(8).double()]
)
def test_what_the_kernel_does_not_support_is_named(master):
    one = torch.zeros(master.shape)
    tensors = [
        ParameterTensors(master, one, one, one, torch.tensor(0.0), None, torch.tensor(0.1), 0.0)
    ]
    with pytest.raises(ValueError, match="adamw: impl='triton' cannot run"):
        AdamWUpdate(impl="triton")(tensors, **HOW)


@pytest.mark.parametrize(
    ("gradient", "copy", "expected"),
    [
        (torch.float16, torch.float16, 28),
        (torch.float32, None, 28),
        (torch.float32, torch.float16, 30),
    ],
)
def test_each_value_is_read_and_written_once(gradient, copy, expected, monkeypatch):
    """Counted in the interpreter's loads and stores; tables are read as scalars."""
    from triton.runtime.interpreter import InterpreterBuilder

    moved, size = [], BLOCK + 123

    def counted(access):
        def count(builder, pointers, *more):
            if pointers.data.size > 1:
                mask = more[0] if access is load else more[1]
                width = pointers.get_element_ty().primitive_bitwidth // 8
                moved.append(int(mask.data.sum()) * width)
            return access(builder, pointers, *more)

        return count

    load = InterpreterBuilder.create_masked_load
    store = InterpreterBuilder.create_masked_store
    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", counted(load))
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", counted(store))
    one = ParameterTensors(
        torch.ones(size), torch.ones(size, dtype=gradient), torch.zeros(size), torch.zeros(size),
        torch.tensor(0.0), copy and torch.empty(size, dtype=copy), torch.tensor(1e-3), 0.05,
    )  # fmt: skip
    AdamWUpdate(impl="triton")([one], torch.tensor(0.5), **HOW)
    assert sum(moved) == expected * size


def test_nothing_to_update():
    AdamWUpdate()([], **HOW)


@pytest.mark.parametrize(("device", "parts"), [("cpu", 3), ("meta", 1)])
def test_chunks_are_for_cpu_caches_only(device, parts):
    """On a GPU (here: a meta tensor), each chunk would cost its own launches."""
    sizes = [_adamw_chunks.CHUNK * 2, 5, 7]
    found = list(_adamw_chunks._chunks([[torch.empty(n, device=device) for n in sizes]] * 4))
    assert len(found) == parts
    assert sum(x.numel() for _, columns in found for x in columns[0]) == sum(sizes)
