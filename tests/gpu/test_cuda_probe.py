"""Probes between the replays of CUDA graphs: training goes on with the same bits."""

import json

import pytest
import torch
from toy_images import save_splits

from fastimae.engine.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RUN = (
    "--num_workers 2 --device cuda --precision bf16 --cuda_graph on --compile off --epochs 3 "
    "--model mae_vit_nano_patch8 --input_size 32 --batch_size 8 --lr 1e-3 --warmup_epochs 0 "
    "--vis_freq 0 --objective mae --model_ema 0.9"
)


def test_training_is_the_same_with_and_without(tmp_path):
    from fastimae import cli

    save_splits(tmp_path, 16)
    command = [*RUN.split(), "--data_path", str(tmp_path), "--output_dir"]
    probes = ["--probe_freq", "1", "--val", str(tmp_path)]
    assert cli.train([*command, str(tmp_path / "plain")]) == 0
    assert cli.train([*command, str(tmp_path / "probed"), *probes]) == 0
    plain, probed = (
        load_checkpoint(tmp_path / name / "checkpoint-last.pth") for name in ("plain", "probed")
    )
    for part in ("model", "model_ema", "optimizer"):
        torch.testing.assert_close(probed[part], plain[part], rtol=0, atol=0)
    lines = (tmp_path / "probed" / "log.txt").read_text().splitlines()
    assert all("probe_ema_knn_acc1" in json.loads(line) for line in lines)
