"""What objectives cost against MAE: counts that are known, and a table of ratios."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from benchmarks import costs
from benchmarks.train.cases import CASES, make_objective, train_flops
from fastimae.objectives import Objective

CPU = torch.device("cpu")


class Layer(Objective):
    """One linear layer, whose activations are known."""

    def __init__(self):
        super().__init__()
        self.student = nn.Linear(3, 5)

    def forward(self, batch):
        x = batch.images.to(self.student.weight.dtype).mean((1, 2))
        return {"loss": self.student(x).float().square().mean()}


def test_activations_are_what_backward_needs_without_weights(monkeypatch):
    """The layer's input, and its output in fp32, of 8 images."""
    for precision, size in (("fp32", 4), ("bf16", 2)):
        monkeypatch.setattr(costs, "resolve_precision", lambda *_, p=precision: p)
        assert costs.activation_bytes(Layer(), costs.SMOKE, CPU) == 8 * (3 * size + 5 * 4)


def test_the_activations_of_an_objective_are_those_of_its_images():
    kept = [
        costs.activation_bytes(make_objective(case), case, CPU) / case.batch_cpu
        for case in (costs.SMOKE, dataclasses.replace(costs.SMOKE, batch_cpu=32))
    ]
    assert kept[1] == pytest.approx(kept[0], rel=0.02)


def test_a_report_has_each_objective_against_mae(tmp_path, capsys):
    out = tmp_path / "costs.json"
    flags = ["--smoke", "--device", "cpu", "--rounds", "1", "--batch_size", "2", "--out", str(out)]
    assert costs.main(flags) == 0
    report = json.loads(out.read_text())
    assert report["complete"] and [row["objective"] for row in report["costs"]] == [*costs.NAMES]
    mae, imae = report["costs"][:2]
    assert mae["of_teachers"] == 0 and imae["of_teachers"] == mae["trained"] > 110e6
    assert imae["flops"] == train_flops(CASES["imae_vit_base_patch16"])
    assert imae["activation_bytes"] > mae["activation_bytes"] > 1e4
    printed = capsys.readouterr().out
    assert "| MAE | 58.1 (x 1.00) | 112 | 0 |" in printed
    assert "| i-MAE, with a teacher | 108 (x 1.85) | 112 | 112 |" in printed
    assert "| CrossMAE | 37.4 (x 0.64) | " in printed
