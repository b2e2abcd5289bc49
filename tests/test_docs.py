"""The code in README and docs/ runs and does what the text says; so do commands that launch."""

import ast
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from toy_images import save_colours

import fastimae
from fastimae.arguments import parse_training
from fastimae.loaders.convert.run import ConvertOptions, convert

DOCS = Path(__file__).resolve().parent.parent / "docs"


class ForeignMAE(nn.Module):
    """A plain MAE with all that can be replaced: no encoder module, and pred is a parameter."""

    def __init__(self, norm_pix_loss):
        super().__init__()
        self.norm_pix_loss = norm_pix_loss
        self.patch_embed = nn.Module()
        self.patch_embed.patch_size = (8, 8)
        self.pred = nn.Parameter(torch.randn(3, 12, 192))

    def patchify(self, imgs):
        tiles = imgs.unfold(2, 8, 8).unfold(3, 8, 8)  # [B, C, down, across, row, column]
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(1, 2).flatten(2)

    def random_masking(self, x, mask_ratio):
        order = torch.rand(x.shape[:2]).argsort(1)
        keep = int(x.shape[1] * (1 - mask_ratio))
        ids_restore = order.argsort(1)
        rows = order[:, :keep, None].expand(-1, -1, x.shape[2])
        return x.gather(1, rows), (ids_restore >= keep).float(), ids_restore

    def forward_loss(self, imgs, pred, mask):
        target = self.patchify(imgs)
        if self.norm_pix_loss:
            centred = target - target.mean(-1, keepdim=True)
            target = centred / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()


def blocks(name):
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)


def test_kernels_one_by_one():
    names = {"ForeignMAE": type("ForeignMAE", (ForeignMAE,), {})}
    for block in blocks("kernels.md"):
        assert len(block.splitlines()) <= 10
        exec(block, names)
    assert names["patches"].shape == (8, 49, 768) and names["tokens"].shape == (8, 197, 512)
    assert names["loss"].item() > 0 and names["pred"].grad.abs().sum() > 0


def test_a_foreign_mae_with_our_methods():
    for norm_pix in (False, True):
        torch.manual_seed(0)
        plain = ForeignMAE(norm_pix)
        names = {"ForeignMAE": type("ForeignMAE", (ForeignMAE,), {})}
        exec(blocks("kernels.md")[-1], names)
        ours = names["ForeignMAE"](norm_pix)
        ours.load_state_dict(plain.state_dict())
        imgs, x = torch.randn(3, 3, 24, 32), torch.randn(3, 12, 5)
        assert torch.equal(ours.patchify(imgs), plain.patchify(imgs))
        kept, mask, ids_restore = ours.random_masking(x, 0.75)
        assert ids_restore.dtype == torch.int64 and mask.sum(1).tolist() == [9, 9, 9]
        everything = torch.cat([kept, torch.zeros(3, 9, 5)], 1)
        restored = everything.gather(1, ids_restore[..., None].expand(-1, -1, 5))
        assert torch.equal(restored, x * (1 - mask)[..., None])
        for given in (mask, mask.clone()):
            losses = [model.forward_loss(imgs, model.pred, given) for model in (plain, ours)]
            torch.testing.assert_close(*losses)
            pair = [
                torch.autograd.grad(loss, model.pred)[0]
                for loss, model in zip(losses, (plain, ours), strict=True)
            ]
            torch.testing.assert_close(*pair)


def test_turning_photos_upright(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.linear_gradient("L").resize((60, 40))
    photo.save("photos/turned.jpg", exif=exif)
    photo.save("photos/upright.jpg")
    before = Path("photos/upright.jpg").read_bytes()
    (block,) = blocks("data.md")
    exec(block, {})
    assert Path("photos/upright.jpg").read_bytes() == before
    turned = Image.open("photos/turned.jpg")
    assert (turned.size, turned.getexif().get(0x0112, 1)) == ((40, 60), 1)
    upright = np.asarray(photo.transpose(Image.Transpose.ROTATE_270), float)
    assert np.abs(np.asarray(turned) - upright).mean() < 2


@pytest.fixture
def small_imagenet(tmp_path, monkeypatch):
    """Work in a folder with an imagenet.beton of four pictures."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        file = tmp_path / f"train/{number % 2}/{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((240, 230), 60).convert("RGB").save(file)
    convert(ConvertOptions(src=str(tmp_path / "train"), out=tmp_path / "imagenet.beton"))


def small_batches(block):
    """Return a block of code with batches that four pictures fill."""
    assert "batch_size=64" in block
    return block.replace("batch_size=64", "batch_size=4, num_workers=0")


def test_readmes_code_computes_features(small_imagenet):
    model = fastimae.create_model("mae_vit_nano_patch16", img_size=224)
    torch.save({"model": model.state_dict()}, "checkpoint-last.pth")
    names = {}
    (block,) = blocks("../README.md")
    exec(small_batches(block), names)
    expected = model.eval().forward_features(names["batch"].images, pool="mean")
    torch.testing.assert_close(names["features"], expected)


def test_losses_from_python(small_imagenet):
    names = {"imgs": torch.randn(2, 3, 224, 224)}
    *_, block = blocks("training.md")
    exec(small_batches(block).replace("vit_base", "vit_nano"), names)
    target = names["model"].patchify(names["imgs"])
    mean, deviation = target.mean(-1, keepdim=True), target.std(-1, keepdim=True)
    loss = ((names["pred"] - (target - mean) / deviation) ** 2).mean(-1)
    assert names["mask"].mean() == 0.75
    torch.testing.assert_close(names["loss"], loss[names["mask"] == 1].mean(), rtol=1e-3, atol=0)
    parts = names["parts"]
    assert parts["loss"].item() == pytest.approx(
        sum(part.item() for name, part in parts.items() if name != "loss")
    )


def test_a_probe_in_a_loop_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        save_colours(tmp_path / split, 4)
        convert(ConvertOptions(src=split, out=Path(f"{split}.beton")))
    names = {"model": fastimae.create_model("mae_vit_nano_patch8", img_size=32)}
    block, _ = blocks("training.md")
    exec(block, names)
    shown = ast.literal_eval(capsys.readouterr().out.strip().splitlines()[-1])
    assert shown.keys() == {"linear_acc1", "knn_acc1", "rankme"} and shown["linear_acc1"] == 100


def commands(name):
    """Return the shell lines of a page that start a training run, each in one line."""
    shell = re.findall(r"```bash\n(.*?)```", (DOCS / name).read_text(), re.DOTALL)
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if "fastimae-train" in line]


@pytest.mark.parametrize("command", commands("launch.md"))
def test_launch_lines_are_understood(command, capsys):
    launcher, settings = command.split("fastimae-train ")
    settings = settings.removesuffix(" &").split()
    assert parse_training("fastimae-train", [*settings, "--print_config"]) is None
    assert "recipe: " not in capsys.readouterr().out
    if launcher.startswith("torchrun"):
        from torch.distributed.run import parse_args

        options = parse_args([*launcher.split()[1:], "fastimae-train", *settings])
        assert options.no_python and options.training_script == "fastimae-train"
        assert options.training_script_args == settings


def test_the_slurm_script_saves_and_queues_itself_again(tmp_path):
    """With stand-ins for SLURM's commands and for the signal that it sends."""
    (script,) = [
        block
        for block in re.findall(r"```bash\n(.*?)```", (DOCS / "launch.md").read_text(), re.DOTALL)
        if "#SBATCH" in block
    ]
    stand_ins = {
        "srun": "trap 'echo saved; exit 0' USR1; touch started; while :; do sleep 0.05; done",
        "scontrol": "[ $1 = show ] && echo node0 || echo $@",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"},
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=20)[0].splitlines() == ["saved", "requeue 7"]
