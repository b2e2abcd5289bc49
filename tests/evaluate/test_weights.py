"""Distributions of weights: measures against plain numpy and known distributions."""

import json
import math

import numpy as np
import pytest
import torch
from tiny import save_run, tiny_model
from undrawn import undrawn

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.figures import weight_measures
from fastimae.evaluate.figures.weight_measures import layers_of, measure, panels_of
from fastimae.evaluate.figures.weight_plots import density_of
from fastimae.evaluate.options.figures import WeightsOptions
from fastimae.evaluate.tasks.weights import run


def by_numpy(values):
    """Return the measures of float64 values, each from its formula."""
    size, spread = np.sqrt(np.mean(values**2)), np.sqrt(np.mean((values - values.mean()) ** 2))
    root, ones, twos = np.sqrt(len(values)), np.abs(values).sum(), np.sqrt((values**2).sum())
    return {
        "values": len(values),
        "mean": values.mean(),
        "std": spread,
        "kurtosis": np.mean((values - values.mean()) ** 4) / spread**4 - 3,
        "near_zero": np.mean(np.abs(values) <= 0.1 * size),
        "hoyer": (root - ones / twos) / (root - 1),
        "least": values.min(),
        "largest": values.max(),
    }


def test_measures_follow_their_formulas(monkeypatch):
    monkeypatch.setattr(weight_measures, "_AT_ONCE", 100)
    one, other = torch.randn(40, 30) ** 3 + 0.1, 5 * torch.randn(7, 11)
    assert measure(one) == pytest.approx(by_numpy(one.double().flatten().numpy()))
    together = torch.cat([one.flatten(), other.flatten()]).double().numpy()
    assert measure(one, other) == pytest.approx(by_numpy(together))


def test_measures_of_known_distributions():
    normal, uniform = measure(torch.randn(10**6)), measure(torch.rand(10**6) - 0.5)
    assert normal["kurtosis"] == pytest.approx(0, abs=0.03)
    assert normal["near_zero"] == pytest.approx(math.erf(0.1 / 2**0.5), abs=2e-3)
    assert normal["hoyer"] == pytest.approx(1 - (2 / math.pi) ** 0.5, abs=2e-3)
    assert uniform["kurtosis"] == pytest.approx(-1.2, abs=0.01)
    assert uniform["near_zero"] == pytest.approx(0.1 / 3**0.5, abs=2e-3)
    laplace = measure(torch.distributions.Laplace(0.0, 3.0).sample((10**6,)))
    assert laplace["kurtosis"] == pytest.approx(3, abs=0.2)
    for name in ("kurtosis", "near_zero", "hoyer"):
        assert uniform[name] < normal[name] < laplace[name]


def test_sparsity_has_its_limits_and_no_scale():
    alone = torch.zeros(100)
    alone[3] = -2.0
    found = measure(alone)
    assert found["hoyer"] == pytest.approx(1) and found["near_zero"] == 0.99
    assert measure(torch.tensor([1.0, -1.0] * 8))["hoyer"] == pytest.approx(0)
    zeros = measure(torch.zeros(4, 4))
    assert (zeros["kurtosis"], zeros["hoyer"], zeros["near_zero"]) == (0, 0, 1)
    weight = torch.randn(500) ** 3
    for name in ("kurtosis", "near_zero", "hoyer"):
        assert measure(1024 * weight)[name] == pytest.approx(measure(weight)[name], rel=1e-12)


def test_every_block_is_in_the_panels_in_order():
    model = tiny_model(depth=3, decoder_depth=2)
    panels = panels_of(dict(model.named_parameters()))
    assert len(panels) == 8
    assert [layer for layer, _ in panels["blocks", "attn.qkv"]] == [0, 1, 2]
    assert [layer for layer, _ in panels["decoder_blocks", "mlp.fc2"]] == [0, 1]
    assert panels["blocks", "mlp.fc1"][1][1] is model.blocks[1].mlp.fc1.weight
    layers = layers_of(dict(model.named_parameters()))
    assert [len(weights) for weights in layers] == [4, 4, 4]
    assert {id(weight) for weight in layers[1]} == {
        id(weight) for weight in model.blocks[1].parameters() if weight.dim() > 1
    }


def test_densities_are_of_weights_in_their_units():
    weights = [torch.randn(300) * 2, torch.randn(100) * 5]
    edges = np.linspace(-30, 30, 121)
    for units in ([1.0, 1.0], [2.0, 5.0]):
        values = np.concatenate([w.numpy() / u for w, u in zip(weights, units, strict=True)])
        expected, _ = np.histogram(values, bins=edges, density=True)
        assert density_of(weights, units, edges) == pytest.approx(expected)
    assert density_of(weights, [1.0, 1.0], np.array([-1e-9, 1e-9])).sum() == 0  # all are outside


def read(folder):
    return json.loads((folder / "results.json").read_text())


def test_run_writes_a_line_for_each_matrix(tmp_path):
    model = tiny_model(heads=2)
    run(WeightsOptions(checkpoint=save_run(tmp_path, model)))
    folder = tmp_path / "eval-weights"
    numbers = read(folder)["numbers"]
    rows = {row["weight"]: row for row in numbers["table"]}
    matrices = {name for name, w in model.state_dict().items() if w.dim() > 1}
    assert rows.keys() == matrices - {"pos_embed", "decoder_pos_embed", "cls_token", "mask_token"}
    weight = model.decoder_embed1.weight
    assert rows["decoder_embed1.weight"]["std"] == pytest.approx(weight.std(correction=0).item())
    assert read(folder)["pictures"] == ["weights.png", "sparsity.png"]
    assert all((folder / name).stat().st_size > 10_000 for name in ("weights.png", "sparsity.png"))
    assert [row["weights"] for row in numbers["summary"]] == ["encoder", "decoder"]
    assert [row["layer"] for row in numbers["layers"]] == [0, 1]
    encoder = [model.patch_embed, *model.blocks]
    weights = [w.flatten() for part in encoder for w in part.parameters() if w.dim() > 1]
    expected = by_numpy(torch.cat(weights).detach().double().numpy())
    assert {name: numbers["summary"][0][name] for name in expected} == pytest.approx(expected)


@undrawn()
def test_models_side_by_side_have_the_numbers_of_each_alone(tmp_path):
    mae = save_run(tmp_path / "mae", tiny_model())
    sparse = tiny_model(depth=3, img_size=64)  # of other images: weights can be compared
    for parameter in sparse.parameters():
        parameter.data = parameter.data**3
    sparse = save_run(tmp_path / "sparse", sparse)
    content = load_checkpoint(sparse)
    content["model"] = {
        name: value for name, value in content["model"].items()
        if not name.startswith(("decoder", "mask_token"))
    }  # fmt: skip
    save_checkpoint(sparse, content)
    run(WeightsOptions(checkpoint=mae, others=(sparse,), output_dir=tmp_path / "both"))
    both = read(tmp_path / "both")["numbers"]
    for name, path in (("mae", mae), ("sparse", sparse)):
        run(WeightsOptions(checkpoint=path, output_dir=tmp_path / "alone"))
        for table, rows in read(tmp_path / "alone")["numbers"].items():
            own = [row for row in both[table] if row["model"] == name]
            assert own == [{"model": name, **row} for row in rows]
    mae, mae_decoder, sparse = both["summary"]
    assert mae_decoder["weights"] == "decoder" and sparse["weights"] == "encoder"
    for name in ("kurtosis", "near_zero", "hoyer"):
        assert mae[name] < sparse[name]
