"""The benchmark of the kernels: right results or none, and correct byte counts."""

import dataclasses
import json
import time
from types import SimpleNamespace

import pytest
import torch
from fake_gpu import FakeGpu

from benchmarks.harness import with_relative_paths
from benchmarks.kernels import __main__ as command
from benchmarks.kernels import measure as measuring
from benchmarks.kernels.cases import cases
from benchmarks.kernels.shapes import SHAPES, SMOKE_SHAPES, KernelCase
from benchmarks.kernels.traffic import ByteCounter, our_bytes, plain_bytes

CPU = torch.device("cpu")


def test_smoke_run(tmp_path, capsys):
    out = tmp_path / "kernels.json"
    flags = ["--smoke", "--no-compile", "--device", "cpu", "--only", "_l2", "--out", str(out)]
    assert command.main(flags) == 0
    report = json.loads(out.read_text())
    rows = report["rows"][1:]
    measured = {(row["op"], row["pass"], row["variant"]) for row in rows}
    assert measured == {
        (op, direction, variant)
        for op in ("masked_l2", "latent_l2", "pair_l2")
        for direction in ("forward", "forward+backward")
        for variant in ("eager", "torch", "auto")
    }
    for row in rows:
        assert row["GB/s"] == pytest.approx(row["GB"] / row["ms"] * 1e3)
    assert out.with_suffix(".md").read_text() in with_relative_paths(capsys.readouterr().out)


def test_a_wrong_op_fails_the_run(monkeypatch, capsys):
    right = measuring.kernels.latent_l2
    monkeypatch.setattr(
        measuring.kernels, "latent_l2", lambda *args, **options: right(*args, **options) * 1.1
    )
    flags = ["--smoke", "--no-compile", "--device", "cpu", "--only", "latent_l2"]
    assert command.main(flags) == 1
    assert "FAILED: latent_l2 smoke i-MAE" in capsys.readouterr().out


def test_a_wrong_gradient_fails_too():
    case = next(case for case in cases(SMOKE_SHAPES[0]) if case.op == "latent_l2")
    inputs = case.inputs(CPU)
    half = lambda x: case.spec({**x, "student": _HalfGradient.apply(x["student"])})  # noqa: E731
    measuring.check(case, "right", case.spec, inputs)
    with pytest.raises(AssertionError, match="latent_l2 smoke i-MAE half: off by"):
        measuring.check(case, "half", half, inputs)


def test_gradients_at_the_wrong_places_fail():
    """A gradient of ones would hide that."""
    case = next(case for case in cases(SMOKE_SHAPES[0]) if case.op == "assemble_tokens")
    inputs = case.inputs(CPU)
    moved = lambda x: case.spec({**x, "x": _RolledGradient.apply(x["x"])})  # noqa: E731
    with pytest.raises(AssertionError, match="moved: off by"):
        measuring.check(case, "moved", moved, inputs)


def fake_case(gpu, backward=lambda: None):
    """Make an op of 20 us, and 30 more in backward, that Python takes far longer to launch."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            time.sleep(0.005)
            gpu.launch("forward", 2e-5)
            return 2 * x

        @staticmethod
        def backward(ctx, grad):
            time.sleep(0.005)
            backward()
            gpu.launch("backward", 3e-5)
            return 2 * grad

    return KernelCase(
        op="latent_l2", shape="made up", inputs=lambda _: {"x": torch.rand(8).requires_grad_()},
        call=lambda op, x: Slow.apply(x["x"]), spec=lambda x: Slow.apply(x["x"]),
        forward_bytes=60_000_000, both_bytes=90_000_000,
    )  # fmt: skip


def test_rows_are_of_the_gpus_time(monkeypatch):
    case = fake_case(FakeGpu(monkeypatch))
    forward, both = measuring.measure(case, torch.device("cuda"), 1e13, compiled=False)
    assert [row["variant"] for row in forward] == ["eager", "torch", "triton", "auto"]
    for row in forward:
        assert row["ms"] == pytest.approx(0.02) and row["GB/s"] == pytest.approx(3000)
    for row in both:
        assert row["ms"] == pytest.approx(0.05) and row["of copy"] == pytest.approx(0.18)
    assert {row["timed"] for row in forward + both} == {"graph replays"}


def test_rows_are_kept_when_the_next_pass_fails(monkeypatch, tmp_path):
    """The file has the forward rows before backward begins."""
    out, seen = tmp_path / "kernels.json", []

    def backward():
        seen.append([row.get("pass") for row in json.loads(out.read_text())["rows"]])
        if len(seen) > 6:  # each of three variants is checked, beside the specification
            raise ValueError("no such kernel")

    gpu = SimpleNamespace(launch=lambda *_: None)
    monkeypatch.setattr(command, "cases", lambda _: [fake_case(gpu, backward)])
    flags = ["--smoke", "--no-compile", "--device", "cpu", "--out", str(out)]
    assert command.main(flags) == 1
    report = json.loads(out.read_text())
    assert [row.get("pass") for row in report["rows"]] == [None, *["forward"] * 3] == seen[-1]
    assert "no such kernel" in report["failed"]["latent_l2 made up"] and report["complete"]


class _RolledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.roll(1, 1)


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad / 2


def test_bytes_are_those_of_the_tensors():
    """Counted from inputs and outputs of the smoke shape."""
    shape = dataclasses.replace(SMOKE_SHAPES[0], batch=3)
    for case in cases(shape):
        if case.op not in ("random_masking", "attention"):
            continue
        inputs = case.inputs(CPU)
        out = case.call(getattr(measuring.kernels, case.op), inputs)
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
