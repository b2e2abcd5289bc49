"""Checkpoints: atomic to write, safe to read, and clear errors about their content."""

import argparse
import os
import resource
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastimae.engine.checkpoint import (
    CheckpointError,
    find_resume,
    load_checkpoint,
    load_weights,
    model_weights,
    save_checkpoint,
)


def test_what_is_saved_is_read_back_under_both_names(tmp_path):
    content = {"model": {"w": torch.randn(3)}, "args": {"lr": 0.1, "input_size": [32, 48]}}
    save_checkpoint(tmp_path / "last.pth", content, also=tmp_path / "checkpoint-3.pth")
    for name in ("last.pth", "checkpoint-3.pth"):
        got = load_checkpoint(tmp_path / name)
        assert torch.equal(got["model"]["w"], content["model"]["w"])
        assert got["args"] == content["args"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_newer_last_leaves_the_numbered_one_alone(tmp_path):
    last = tmp_path / "last.pth"
    save_checkpoint(last, {"epoch": 1}, also=tmp_path / "checkpoint-1.pth")
    save_checkpoint(last, {"epoch": 2})
    assert load_checkpoint(tmp_path / "checkpoint-1.pth")["epoch"] == 1
    assert load_checkpoint(last)["epoch"] == 2


def test_a_full_disk_is_one_error_and_leaves_the_old_file(tmp_path):
    last = tmp_path / "last.pth"
    save_checkpoint(last, {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot save .*last\.pth.*--output_dir"):
            save_checkpoint(last, {"epoch": 2, "w": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(last)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


KILLED = """
import os, sys, torch
from pathlib import Path
from fastimae.engine import checkpoint
real = torch.save
def die(content, file):
    real(content, file); file.flush(); os.kill(os.getpid(), 9)
torch.save = die
checkpoint.save_checkpoint(Path(sys.argv[1]), {"epoch": 2})
"""


def test_a_kill_while_saving_leaves_the_old_file(tmp_path):
    last = tmp_path / "last.pth"
    save_checkpoint(last, {"epoch": 1})
    run = subprocess.run([sys.executable, "-c", KILLED, str(last)], check=False, timeout=60)
    assert run.returncode == -9
    assert load_checkpoint(last)["epoch"] == 1


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "missing", "a list"])
def test_damaged_files_are_one_clear_error(tmp_path, damage):
    path = tmp_path / "some.pth"
    if damage == "a list":
        torch.save([1], path)
    elif damage != "missing":
        torch.save({"w": torch.zeros(1000)}, path)
        content = {"truncated": path.read_bytes()[:700], "foreign": b"GIF89a" * 9, "empty": b""}
        path.write_bytes(content[damage])
    with pytest.raises(CheckpointError, match=r"some\.pth") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model": {}, "args": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"read safely \(it needs \w+.mkdir, which is code"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "owned").exists()


def test_maes_namespace_args_are_let_through(tmp_path):
    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "mae.pth")
    assert load_checkpoint(tmp_path / "mae.pth")["args"].lr == 1


def test_weights_lose_the_prefixes_of_wrappers(tmp_path):
    value = torch.zeros(1)
    wrapped = {"model": {"module._orig_mod.a.w": value, "module_list.w": value}}
    assert set(model_weights(wrapped, tmp_path)) == {"a.w", "module_list.w"}
    assert set(model_weights({"a.w": value}, tmp_path)) == {"a.w"}
    with pytest.raises(CheckpointError, match="no model weights"):
        model_weights({"epoch": 3}, tmp_path)


def test_missing_and_unexpected_keys_are_listed(tmp_path, caplog):
    layer = nn.Linear(2, 2)
    weights = {"weight": torch.ones(2, 2), "extra": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"missing keys: bias; unexpected keys: extra"):
        load_weights(layer, weights, tmp_path)
    assert not torch.equal(layer.weight, weights["weight"])
    load_weights(layer, weights, tmp_path, allow_partial=True)
    assert torch.equal(layer.weight, weights["weight"])
    load_weights(layer, {"weight": weights["weight"]}, tmp_path, optional=("bias",))
    with pytest.raises(CheckpointError, match=r"weight \(3, 2\) instead of \(2, 2\)"):
        load_weights(layer, {"weight": torch.ones(3, 2)}, tmp_path, allow_partial=True)


def test_resume_auto_means_the_last_or_the_highest(tmp_path):
    assert find_resume("", tmp_path) is None and find_resume("auto", tmp_path) is None
    for epoch in (2, 10):
        save_checkpoint(tmp_path / f"checkpoint-{epoch}.pth", {})
    assert find_resume("auto", tmp_path).name == "checkpoint-10.pth"
    save_checkpoint(tmp_path / "checkpoint-last.pth", {})
    assert find_resume("auto", tmp_path).name == "checkpoint-last.pth"
    assert find_resume("x.pth", tmp_path).name == "x.pth"


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pth is not a file"):
        load_checkpoint(tmp_path / "checkpoint.pth")
