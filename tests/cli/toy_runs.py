"""Runs of seconds, of the command in this process, and what they leave."""

import json

import torch

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint

MODEL = "--model mae_vit_nano_patch16 --input_size 32"
IMAE = "--objective imae --mix_group 8"
BASE = f"{MODEL} --batch_size 8 --warmup_epochs 1 --blr 1e-2 --device cpu"
THREE_EPOCHS = f"{BASE} --epochs 3 {IMAE} --save_freq 50 --vis_freq 0"


def train(command):
    return cli.train(command.split())


def step_of(path):
    content = load_checkpoint(path)
    return content["epoch"], content["step"]


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def assert_same_training(a, b):
    """Check for equal bits in weights and optimizer state."""
    first, second = (load_checkpoint(folder / "checkpoint-last.pth") for folder in (a, b))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for number, state in first["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, second["optimizer"]["state"][number][name]), (number, name)
    assert first["loader"] == second["loader"] and first["epoch"] == second["epoch"]
