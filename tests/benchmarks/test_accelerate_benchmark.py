"""The benchmark of accelerate: a row for each model class and precision, and the table of them."""

import json

import pytest

from benchmarks import accelerate

FLAGS = ("--smoke", "--device", "cpu", "--steps", "1", "--batch_size", "2")


def test_a_row_for_each_class_and_precision(tmp_path, capsys):
    pytest.importorskip("timm")
    out = tmp_path / "accelerated.json"
    name = "timm ViT, LayerScale"
    assert accelerate.main([*FLAGS, "--out", str(out), "--models", name]) == 0
    report = json.loads(out.read_text())
    rows = report["accelerated"]
    assert report["complete"] and report["size"] == "ViT of width 48, 2 blocks, 32 pixels"
    assert [(row["model"], row["precision"]) for row in rows] == [(name, "fp32"), (name, "bf16")]
    for row in rows:
        tolerance = 1e-4 if row["precision"] == "fp32" else 5e-2
        assert row["loss_off"] <= tolerance and row["gradients_off"] <= tolerance
        assert row["before_ms"] > 0 and row["after_ms"] > 0 and row["rounds"] == 1
        assert any("self.ls1" in why for why in row["left"])
    assert "| timm ViT, LayerScale | bf16 | " in capsys.readouterr().out


def test_the_table_has_the_ratio_of_times():
    row = {"model": "A", "precision": "fp32", "swapped": ["attn (2)", "mlp"]}
    row |= {"left": ["no faster here: a, b", "ours is torch's own on cpu: c", "no: x"]}
    row |= {"loss_off": 0.0, "gradients_off": 2e-6, "before_ms": 300.0, "after_ms": 200.0}
    row |= {"ratio": 1.5, "ratio_20": 1.4, "ratio_80": 1.62}
    report = {"accelerated": [{**row, "rounds": 5}], "size": "ViT", "batch_size": 8}
    line = (
        "| A | fp32 | attn (2); mlp | a, b | no: x | 0e+00 | 2e-06 | 300 | 200 "
        "| x 1.50 (1.40 to 1.62) |"
    )
    assert line in accelerate.markdown(report)
    assert accelerate.markdown({**report, "accelerated": []}).startswith("(nothing measured)")
