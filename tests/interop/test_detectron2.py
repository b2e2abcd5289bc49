"""Exports for detectron2: a ViT with ViTDet's names loads them, and computes DenseEncoder's map."""

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import save_run, tiny_model
from torch import nn

from fastimae.cli import export
from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.interop import load_model
from fastimae.interop.detectron2 import config_of
from fastimae.interop.finetuned import add_fc_norm
from fastimae.models import create_model

WIDTH, HEADS, PATCH = 32, 4, 8


class TheirAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        """Attend within each square of [squares, rows, columns, WIDTH]."""
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, HEADS, -1))
        scores = (
            torch.einsum("snhd,smhd->shnm", qkv[:, :, 0], qkv[:, :, 1]) * (WIDTH / HEADS) ** -0.5
        )
        out = torch.einsum("shnm,smhd->snhd", scores.softmax(-1), qkv[:, :, 2])
        return self.proj(out.flatten(2)).view_as(x)


class TheirBlock(nn.Module):
    def __init__(self, window):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.window = TheirAttention(), window
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def attend(self, x):
        if not self.window:
            return self.attn(x)
        height, width = x.shape[1:3]
        side, out = self.window, torch.zeros_like(x)
        for top in range(0, height, side):
            for left in range(0, width, side):
                part = x[:, top : top + side, left : left + side]
                down, across = part.shape[1:3]
                filled = F.pad(part, (0, 0, 0, side - across, 0, side - down))
                out[:, top : top + side, left : left + side] = self.attn(filled)[:, :down, :across]
        return out

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class TheirViT(nn.Module):
    """What detectron2 calls ViT, by the arguments that its configs set."""

    def __init__(
        self, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, pretrain_img_size,
        window_size, window_block_indexes,
    ):  # fmt: skip
        super().__init__()
        assert (embed_dim, num_heads, mlp_ratio) == (WIDTH, HEADS, 4)
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(in_chans, WIDTH, patch_size, patch_size)
        self.side = pretrain_img_size // patch_size
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, WIDTH))
        windows = [window_size if number in window_block_indexes else 0 for number in range(depth)]
        self.blocks = nn.ModuleList(map(TheirBlock, windows))

    def positions(self, grid):
        own = self.pos_embed[:, 1:].mT.unflatten(-1, (self.side, self.side))
        return F.interpolate(own, grid, mode="bicubic", align_corners=False)

    def forward(self, imgs):
        x = self.patch_embed.proj(imgs)
        x = (x + self.positions(x.shape[2:])).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return x.permute(0, 3, 1, 2)


def detector(**net):
    """Build a model with the ViT where ViTDet has it."""
    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.net = TheirViT(**net)
    return model


def settings(text):
    """Read the lines of a config that the export logs: {name: value}."""
    lines = text[text.index("train.init_checkpoint") :].splitlines()
    pairs = (line.split(" = ") for line in lines if " = " in line)
    return {name: ast.literal_eval(value) for name, value in pairs}


def net_of(said):
    prefix = "model.backbone.net."
    return {k.removeprefix(prefix): v for k, v in said.items() if k.startswith(prefix)}


def trained(**sizes):
    """Make a model whose positions, norms and biases are not those of a fresh one."""
    torch.manual_seed(0)
    model = tiny_model(depth=6, **sizes)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture
def exported(tmp_path, capsys):
    """Return a function that exports a model: (weights, what the config is to say, stderr)."""

    def run(model, **args):
        out = tmp_path / "vitdet.pth"
        path = save_run(tmp_path / "run", model, **args)
        assert export([str(path), str(out), "--to", "detectron2"]) == 0
        content, text = torch.load(out, weights_only=True), capsys.readouterr().err
        assert set(content) == {"model", "args", "licence"}
        return content["model"], settings(text), text

    return run


@pytest.mark.parametrize("class_tokens", [1, 3])
def test_their_vit_loads_it_strictly_and_gives_the_same_map(exported, class_tokens):
    """Six blocks, of which 1 and 4 attend within windows of the pre-training's grid."""
    model = trained(class_tokens=class_tokens)
    weights, said, _ = exported(model, class_tokens=class_tokens)
    net = net_of(said)
    assert net["window_block_indexes"] == [1, 4] and net["window_size"] == 4
    theirs = detector(**net)
    theirs.load_state_dict(weights)  # strict
    for size in ((32, 32), (48, 80), (24, 104)):
        dense = DenseEncoder(model, size, window=net["window_size"], norm=False)
        if size != (32, 32):  # detectron2's bicubic is not antialiased, timm's is
            own = theirs.backbone.net.positions(dense.grid).flatten(2).mT
            assert (dense.pos_embed[:, class_tokens:] - own).abs().max() < 0.2
            dense.pos_embed.data[:, class_tokens:] = own
        imgs = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(dense(imgs)[0], theirs.backbone.net(imgs), rtol=0, atol=1e-5)


def test_the_config_says_what_differs_from_vitdets(exported, tmp_path):
    model = trained(mean=(0.5, 0.5, 0.25), std=(0.1, 0.2, 0.3))
    _, said, text = exported(model)
    assert said["train.init_checkpoint"] == str(tmp_path / "vitdet.pth")
    assert said["model.pixel_mean"] == [127.5, 127.5, 63.75]
    assert said["model.pixel_std"] == [25.5, 51.0, 76.5]
    assert said['optimizer.params.lr_factor_func.keywords["num_layers"]'] == 6
    assert "patches of 8 pixels: detectron2's pyramid and heads are made for 16" in text
    assert "dropped (cls_token, mask_token, decoder_pos_embed, norm," in text


def test_the_documents_config_is_that_of_vit_large():
    text = (Path(__file__).resolve().parents[2] / "docs/checkpoints.md").read_text()
    with torch.device("meta"):
        model = create_model("mae_vit_large_patch16")
    assert "\n".join(config_of(model, Path("vitdet.pth"))) in text


def test_a_model_that_was_fine_tuned_on_the_mean(exported, tmp_path):
    """It has fc_norm instead of norm, of which ViTDet needs neither."""
    model = trained()
    add_fc_norm(model, keep_norm=False)
    weights, said, _ = exported(model)
    detector(**net_of(said)).load_state_dict(weights)
    model = load_model(tmp_path / "run" / "checkpoint-last.pth", encoder_only=True)
    assert torch.equal(weights["backbone.net.pos_embed"], model.pos_embed)


@pytest.mark.parametrize(
    ("sizes", "out", "why"),
    [
        ({"img_size": (32, 48)}, "x.pth", "not square, which detectron2's ViT does not support"),
        ({}, "x.safetensors", "OUT must be a file ending in .pth, not"),
        ({}, "folder", "OUT must be a file ending in .pth, not"),
    ],
)
def test_what_detectron2_cannot_read(tmp_path, capsys, sizes, out, why):
    path = save_run(tmp_path / "run", trained(**sizes))
    assert export([str(path), str(tmp_path / out), "--to", "detectron2"]) == 2
    assert why in capsys.readouterr().err and not (tmp_path / out).exists()
