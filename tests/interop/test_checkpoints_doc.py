"""The Python and the commands in docs/checkpoints.md run, and all give the same model."""

import re
from pathlib import Path

import pytest
import torch

from fastimae.cli import export, import_
from fastimae.models import create_model

TEXT = (Path(__file__).resolve().parents[2] / "docs/checkpoints.md").read_text()


def test_commands_and_code(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    model = create_model("mae_vit_tiny_patch16", decoder_depth=1)
    for file in ("checkpoint-last.pth", "mae_pretrain_vit_base_full.pth"):
        torch.save({"model": model.state_dict()}, file)
    (commands,) = re.findall(r"```\n(fastimae-.*?)```", TEXT, re.DOTALL)
    for line in commands.splitlines():
        name, *arguments = line.split()
        assert (export if name == "fastimae-export" else import_)(arguments) == 0
    assert "decoder_pred.weight" not in torch.load("mae.pth", weights_only=True)["model"]
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    weights = [
        names["encoder"].blocks[11].mlp.fc2.weight,
        names["model"].blocks[11].mlp.fc2.weight,
        names["vit"].blocks[11].mlp.fc2.weight,
        names["vit_mae"].state_dict()["vit.layers.11.mlp.fc2.weight"],
    ]
    assert all(torch.equal(weight, model.blocks[11].mlp.fc2.weight) for weight in weights)
