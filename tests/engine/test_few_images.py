"""Training on few images, in epochs longer than they are many: to the end, and from the middle."""

import json
import re

import torch

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.trainer import Trainer

COMMAND = (
    "--synthetic --synthetic_samples 40 --num_workers 0 --device cpu --precision fp32 --vis_freq 0 "
    "--model mae_vit_nano_patch16 --input_size 32 --batch_size 6 --warmup_epochs 1 --save_steps 2"
)
FEW = f"{COMMAND} --images 4 --images_from one_class --epoch_samples 33"


def train(folder, flags):
    return cli.train([*flags.split(), "--output_dir", str(folder)])


def tensors_of(state, name=""):
    """Return all tensors of a checkpoint by their path."""
    if torch.is_tensor(state):
        return {name: state}
    items = state.items() if isinstance(state, dict) else ()
    return {k: v for key, value in items for k, v in tensors_of(value, f"{name}/{key}").items()}


def test_a_run_killed_in_a_long_epoch_resumes_to_the_same_bits(tmp_path, monkeypatch):
    """Four images are drawn 33 times: the run dies in the third of nine passes."""
    flags = f"{FEW} --objective imae --mix_group 3 --epochs 2"
    assert train(tmp_path / "straight", flags) == 0
    real, steps = Trainer._train_step, iter(range(100))

    def step(self, batches):
        if next(steps) == 7:
            raise KeyboardInterrupt
        real(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        assert train(tmp_path / "killed", flags) == 130
    stopped = load_checkpoint(tmp_path / "killed/checkpoint-last.pth")
    assert (stopped["epoch"], stopped["loader"]["step"], stopped["loader"]["samples"]) == (1, 2, 33)
    assert train(tmp_path / "killed", f"{flags} --resume auto") == 0
    straight, killed = (
        tensors_of(load_checkpoint(tmp_path / run / "checkpoint-last.pth"))
        for run in ("straight", "killed")
    )
    assert straight.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in straight.items())


def test_other_images_are_refused_within_an_epoch(tmp_path, capsys, monkeypatch):
    real = Trainer._train_step
    steps = iter(range(100))

    def step(self, batches):
        if next(steps) == 3:
            raise KeyboardInterrupt
        real(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", step)
        assert train(tmp_path, f"{FEW} --epochs 2") == 130
    for change in ("--images 3", "--images_from random", "--epoch_samples 48", "--seed 1"):
        others = re.sub(f"{change.split()[0]} [^ ]+|$", change, f"{FEW} ", count=1)
        assert train(tmp_path, f"{others} --epochs 2 --resume auto") == 2
        assert "cannot resume within epoch 0 with other data" in capsys.readouterr().err
    assert train(tmp_path, f"{FEW} --epochs 2 --resume auto") == 0


def test_one_image_is_trained_on_and_not_mixed(tmp_path, capsys):
    one = f"{COMMAND} --images 1 --epoch_samples 24 --epochs 6 --blr 0.02"
    assert train(tmp_path, one) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    assert load_checkpoint(tmp_path / "checkpoint-last.pth")["loader"]["step"] == 4
    assert train(tmp_path / "imae", f"{one} --objective imae --mix_group 0") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "a mixture is of two images" in error and "--images 2" in error
