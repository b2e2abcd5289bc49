"""Models of six channels in other projects' layouts: weights, mean and std come back."""

import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import BANDS

from fastimae import cli
from fastimae.interop import load_model


@pytest.mark.parametrize(
    ("layout", "name"),
    [("mae", "x.pth"), ("timm", "x.safetensors"), ("huggingface", "x"), ("fastimae", "x.pth")],
)
def test_models_of_many_channels_return_from_each_layout(layout, name, tmp_path):
    model = tiny_model(**{**BANDS, "mean": [0.1 + 0.01 * c for c in range(6)]})
    run = save_run(tmp_path / "run", model)
    assert cli.export([str(run), str(tmp_path / name), "--to", layout]) == 0
    again = load_model(tmp_path / name, encoder_only=True).eval()
    assert (again.in_chans, again.mean, again.std) == (6, model.mean, model.std)
    images = torch.randint(0, 65536, (2, *model.img_size, 6)).to(torch.uint16)
    with torch.no_grad():
        features = [each.forward_features(images) for each in (model, again)]
    torch.testing.assert_close(*features)
