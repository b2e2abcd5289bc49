"""The benchmark of the kernels: right results or none, and bytes that add up."""

import dataclasses
import json

import pytest
import torch

from benchmarks import kernels as benchmark
from benchmarks.kernel_cases import SHAPES, SMOKE_SHAPES, cases
from benchmarks.traffic import ByteCounter, our_bytes, plain_bytes

CPU = torch.device("cpu")


def test_smoke_run(tmp_path, capsys):
    out = tmp_path / "kernels.json"
    command = ["--smoke", "--no-compile", "--device", "cpu", "--only", "_l2", "--out", str(out)]
    assert benchmark.main(command) == 0
    report = json.loads(out.read_text())
    rows = report["rows"][1:]
    measured = {(row["op"], row["pass"], row["variant"]) for row in rows}
    assert measured == {
        (op, direction, variant)
        for op in ("masked_l2", "latent_l2")
        for direction in ("forward", "forward+backward")
        for variant in ("eager", "torch", "auto")
    }
    for row in rows:
        assert row["GB/s"] == pytest.approx(row["GB"] / row["ms"] * 1e3)
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out


def test_a_wrong_op_fails_the_run(monkeypatch, capsys):
    right = benchmark.kernels.latent_l2
    monkeypatch.setattr(
        benchmark.kernels, "latent_l2", lambda *args, **options: right(*args, **options) * 1.1
    )
    command = ["--smoke", "--no-compile", "--device", "cpu", "--only", "latent_l2"]
    assert benchmark.main(command) == 1
    assert "failed: latent_l2 smoke i-MAE" in capsys.readouterr().out


def test_a_wrong_gradient_fails_too():
    case = next(case for case in cases(SMOKE_SHAPES[0]) if case.op == "latent_l2")
    inputs = case.inputs(CPU)
    half = lambda: case.spec({**inputs, "student": _HalfGradient.apply(inputs["student"])})  # noqa: E731
    benchmark.check(case, "right", lambda: case.spec(inputs), inputs)
    with pytest.raises(AssertionError, match="latent_l2 smoke i-MAE half: off by"):
        benchmark.check(case, "half", half, inputs)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


def test_bytes_are_those_of_the_tensors():
    """Of the smoke shape, counted from inputs and outputs."""
    shape = dataclasses.replace(SMOKE_SHAPES[0], batch=3)
    for case in cases(shape):
        if case.op not in ("random_masking", "attention"):
            continue
        inputs = case.inputs(CPU)
        out = case.call(getattr(benchmark.kernels, case.op), inputs)
        tensors = [*inputs.values(), *(out if isinstance(out, tuple) else (out,))]
        assert case.forward_bytes == sum(x.numel() * x.itemsize for x in tensors), case.op


def test_the_counter_charges_inputs_and_outputs_once():
    x, row = torch.zeros(4, 8), torch.zeros(1, 8)
    with ByteCounter() as counter:
        y = x.t() + 1  # a view costs nothing; the sum reads and writes 128 bytes
        y @ x  # products are not counted
        row.expand(4, 8).clone()  # 32 read, 128 written
    assert counter.bytes == 128 + 128 + 32 + 128


@pytest.mark.parametrize("shape", SHAPES[:2], ids=lambda shape: shape.name)
def test_a_step_moves_15_times_fewer_bytes_than_the_plain_pipeline(shape):
    assert plain_bytes(shape) > 15 * our_bytes(shape)
