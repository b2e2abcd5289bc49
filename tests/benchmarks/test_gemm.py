"""The benchmark of matrix products: the right products, and operations that add up."""

import json

import pytest
import torch
from fake_gpu import FakeGpu

from benchmarks import gemm
from benchmarks.harness import with_relative_paths

CPU = torch.device("cpu")


def test_smoke_run(tmp_path, capsys):
    out = tmp_path / "gemm.json"
    assert gemm.main(["--smoke", "--device", "cpu", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    seen = [(row["layer"], row["product"]) for row in report["rows"]]
    assert seen == [(layer, product) for layer in gemm.LAYERS for product in gemm.PRODUCTS]
    for row in report["rows"]:
        flops = 2 * row["rows"] * row["in"] * row["out"]
        assert row["TFLOP/s"] == pytest.approx(flops / row["us"] / 1e6)
        assert row["of square"] == pytest.approx(row["TFLOP/s"] * 1e12 / report["square"]["bf16"])
    assert report["complete"]
    text = with_relative_paths(capsys.readouterr().out)
    assert "| smoke | fc2 | 64 | 192 | 48 |" in text and out.with_suffix(".md").read_text() in text


def test_products_are_those_of_a_linear_layer():
    x, weight, bias, grad = gemm.operands(5, 3, 4, CPU)
    layer = torch.nn.Linear(3, 4, dtype=torch.bfloat16)
    layer.weight.data, layer.bias.data, x.requires_grad = weight, bias, True
    out = layer(x)
    out.backward(grad)
    expected = {"forward": out, "dX": x.grad, "dW": layer.weight.grad}
    for name, product in gemm.PRODUCTS.items():
        made = product(gemm.Operands(x.detach(), weight, bias, grad))
        torch.testing.assert_close(made, expected[name].detach())


def test_rates_are_of_the_square_product_asked_for(monkeypatch):
    monkeypatch.setattr(gemm, "product_rate", lambda *args: args)
    formats = {"bf16": torch.bfloat16, "fp32": torch.float32}
    for side, used in ((None, 2048), (8, 8)):
        rates = gemm.measure_square(CPU, side)
        assert rates == {name: (CPU, kind, used, 15) for name, kind in formats.items()}


def test_rows_are_kept_layer_by_layer(tmp_path, monkeypatch):
    out, measure = tmp_path / "gemm.json", gemm.measure

    def fails(stack, layer, *rest):
        if layer == "fc1":
            raise torch.cuda.OutOfMemoryError
        return measure(stack, layer, *rest)

    monkeypatch.setattr(gemm, "measure", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        gemm.main(["--smoke", "--device", "cpu", "--out", str(out)])
    report = json.loads(out.read_text())
    assert [row["layer"] for row in report["rows"]] == ["qkv"] * 3 + ["proj"] * 3
    assert report["complete"] is False


def test_products_are_timed_by_replays(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    products = {"forward": lambda operands: gpu.launch("forward", 1e-4)}
    monkeypatch.setattr(gemm, "PRODUCTS", products)
    monkeypatch.setattr(gemm, "operands", lambda *_: None)
    (row,) = gemm.measure(gemm.STACKS[0], "proj", torch.device("cuda"), 8e14)
    assert row["timed"] == "graph replays"
    # 2 * 12800 * 768 * 768 operations in 0.1 ms.
    assert row["TFLOP/s"] == pytest.approx(151, rel=1e-3)
    assert row["of square"] == pytest.approx(0.189, abs=1e-3)
