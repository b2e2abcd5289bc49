"""Distributions of weights: numbers against formulas and known distributions."""

import json

import numpy as np
import pytest
import torch
from tiny import save_run, tiny_model

from fastimae.evaluate.tasks.weights import WeightsOptions, moments, panels_of, run


def test_moments_follow_their_formulas():
    weight = torch.randn(40, 30) ** 3 + 0.1
    values = weight.double().numpy()
    found = moments(weight)
    spread = np.sqrt(np.mean((values - values.mean()) ** 2))
    assert found["values"] == 1200
    assert found["mean"] == pytest.approx(values.mean())
    assert found["std"] == pytest.approx(spread)
    fourth = np.mean((values - values.mean()) ** 4) / spread**4 - 3
    assert found["kurtosis"] == pytest.approx(fourth)
    assert (found["least"], found["largest"]) == (values.min(), values.max())


def test_kurtosis_of_known_distributions():
    assert moments(torch.randn(10**6))["kurtosis"] == pytest.approx(0, abs=0.03)
    assert moments(torch.rand(10**6))["kurtosis"] == pytest.approx(-1.2, abs=0.01)
    assert moments(torch.zeros(4, 4))["kurtosis"] == 0


def test_every_block_is_in_the_panels_in_order():
    model = tiny_model(depth=3, decoder_depth=2)
    panels = panels_of(dict(model.named_parameters()))
    assert len(panels) == 8
    assert [layer for layer, _ in panels["blocks", "attn.qkv"]] == [0, 1, 2]
    assert [layer for layer, _ in panels["decoder_blocks", "mlp.fc2"]] == [0, 1]
    assert panels["blocks", "mlp.fc1"][1][1] is model.blocks[1].mlp.fc1.weight


def test_run_writes_a_line_for_each_matrix(tmp_path):
    model = tiny_model(heads=2)
    run(WeightsOptions(checkpoint=save_run(tmp_path, model)))
    folder = tmp_path / "eval-weights"
    table = json.loads((folder / "results.json").read_text())["numbers"]["table"]
    rows = {row["weight"]: row for row in table}
    matrices = {name for name, w in model.state_dict().items() if w.dim() > 1}
    assert rows.keys() == matrices - {"pos_embed", "decoder_pos_embed", "cls_token", "mask_token"}
    weight = model.decoder_embed1.weight
    assert rows["decoder_embed1.weight"]["std"] == pytest.approx(weight.std(correction=0).item())
    assert (folder / "weights.png").stat().st_size > 10_000
