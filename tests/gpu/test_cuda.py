"""Masks and losses on a GPU equal the CPU's, and training runs in every precision."""

import copy
import json

import pytest
import torch

from fastimae.kernels import random_masking
from fastimae.models import create_model
from fastimae.objectives import IMAE, MAE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def build(kind):
    student = create_model("mae_vit_tiny_patch8", img_size=64, heads=2 if kind == "imae" else 1)
    if kind == "mae":
        return MAE(student)
    return IMAE(student, create_model("mae_vit_tiny_patch8", img_size=64))


def test_masks_are_the_cpus():
    keys = torch.randint(-(2**62), 2**62, (512,))
    for grid, unit in (((14, 14), 1), ((8, 12), 2)):
        ours, theirs = (random_masking(k, grid, 0.75, unit) for k in (keys, keys.cuda()))
        assert all(torch.equal(a, b.cpu()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["mae", "imae"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-4), (torch.bfloat16, 2e-2)])
def test_losses_and_gradients_are_the_cpus(make_batch, kind, dtype, tolerance):
    batch, cpu = make_batch(8, (64, 64)), build(kind)
    gpu = copy.deepcopy(cpu).cuda()
    expected = cpu(batch)
    expected["loss"].backward()
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        got = gpu(batch.to("cuda"))
    got["loss"].backward()
    for name, value in expected.items():
        assert got[name].item() == pytest.approx(value.item(), rel=tolerance), name
    for (name, a), b in zip(cpu.named_parameters(), gpu.parameters(), strict=True):
        if a.grad is not None:
            error = (a.grad - b.grad.cpu()).norm() / a.grad.norm().clamp_min(1e-6)
            assert error < 10 * tolerance, name


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_training_on_the_gpu(tmp_path, precision, monkeypatch):
    pytest.importorskip("tyro")
    # Do not keep a peak that was measured while other tests ran.
    monkeypatch.setattr("fastimae.engine.peak.cache_file", lambda: tmp_path / "peaks.json")
    from fastimae import cli

    command = (
        f"--synthetic --synthetic_samples 512 --model mae_vit_nano_patch8 --input_size 32 "
        f"--batch_size 64 --epochs 6 --warmup_epochs 1 --blr 1e-2 --objective imae "
        f"--device cuda --precision {precision} --output_dir {tmp_path}"
    )
    assert cli.train(command.split()) == 0
    losses = [json.loads(line)["train_loss"] for line in (tmp_path / "log.txt").open()]
    assert losses[-1] < 0.9 * losses[0]
