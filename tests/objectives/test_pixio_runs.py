"""Runs with several class tokens and dropped paths: stopped, resumed, exported and evaluated."""

import json

import pytest
import torch
from toy_images import save_gray, save_splits

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.trainer import Trainer

SETTINGS = (
    "--class_tokens 3 --drop_path 0.5 --mask_patch_size 16 --num_workers 0 --device cpu "
    "--model mae_vit_nano_patch8 --input_size 32 --decoder_depth 2 --batch_size 6 --epochs 2 "
    "--warmup_epochs 1 --blr 0.1 --save_steps 1 --vis_freq 0"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_splits(tmp_path_factory.mktemp("data"), 4)


@pytest.fixture(scope="module", autouse=True)
def _no_figures():
    """Replace the picture: drawing it takes longer than all training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastimae.pictures.reconstruction.draw_grid", save_gray)
        yield


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Train two epochs of two steps; return the folder."""
    out = tmp_path_factory.mktemp("run")
    assert train(data, out) == 0
    return out


def train(data, out, *more):
    command = f"--data_path {data / 'train'} {SETTINGS} --output_dir {out}"
    return cli.train([*command.split(), *more])


def weights_of(out):
    return load_checkpoint(out / "checkpoint-last.pth")["model"]


def test_a_stopped_run_resumes_to_the_same_bits(run, data, tmp_path, monkeypatch):
    real, steps = Trainer._train_step, iter(range(3))

    def step(self, batches):
        if next(steps) == 2:
            raise KeyboardInterrupt
        real(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        assert train(data, tmp_path) == 130
    assert train(data, tmp_path, "--resume", "auto") == 0
    wanted, got = weights_of(run), weights_of(tmp_path)
    assert got["cls_token"].shape == (1, 3, 128) and got["decoder_pos_embed"].shape == (1, 19, 128)
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())


@pytest.mark.parametrize(
    "task",
    [
        "knn --k 3 --pool cls",
        "finetune --epochs 1 --warmup_epochs 0 --batch_size 6 --mixup 0",
    ],
)
def test_it_is_evaluated(run, data, tmp_path, task):
    command = f"{task} --checkpoint {run / 'checkpoint-last.pth'} --device cpu --num_workers 0 "
    command += f"--data_path {data} --output_dir {tmp_path}"
    assert cli.evaluate(command.split()) == 0
    assert json.loads((tmp_path / "results.json").read_text())["numbers"]
