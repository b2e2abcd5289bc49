"""A killed process ends the run soon and clearly, and the run resumes from its checkpoint."""

import logging
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from fastimae import cli
from fastimae.engine.checkpoint import load_checkpoint

COMMAND = (
    "--synthetic --synthetic_samples 48 --num_workers 0 --device cpu --precision fp32 "
    "--model mae_vit_nano_patch16 --input_size 32 --warmup_epochs 1 --save_steps 1 --vis_freq 0"
)


def test_survivors_end_by_themselves_with_one_line(ranks):
    """Without torchrun, as under SLURM, after the other rank and its store are gone; long before
    --dist_timeout, which is 600 seconds."""
    run = ranks.report["killed"]
    assert run["codes"] == [-signal.SIGKILL, 2] and run["seconds"] < 300
    output = ranks.output("killed", 1).strip().splitlines()
    assert output[-1].startswith("fastimae-train: error: process 1 lost another process")
    assert "--resume auto" in output[-1] and not any("Traceback" in line for line in output)


def test_a_killed_run_resumes_to_the_same_weights(ranks):
    output = ranks.output("revived", 0)
    assert ranks.report["revived"]["codes"] == [0], output
    assert ", processes 2 -> 1" in output and "effective batch" not in output.split("settings")[1]
    alone, revived = (
        load_checkpoint(ranks.folder / name / "checkpoint-last.pth")
        for name in ("imae_1", "revived")
    )
    assert revived["epoch"] == alone["epoch"] == 1
    for name, value in alone["model"].items():
        torch.testing.assert_close(revived["model"][name], value, rtol=1e-3, atol=1e-4, msg=name)
    losses = [[line["train_loss"] for line in ranks.log(name)] for name in ("imae_1", "revived")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.fixture
def _logging_as_before(monkeypatch):
    log = logging.getLogger("fastimae")
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(log, name, getattr(log, name))


@pytest.mark.usefixtures("_logging_as_before")
def test_torchrun_ends_all_and_the_run_resumes(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = f"{COMMAND} --output_dir {tmp_path}"
    ranks = f"-m fastimae.cli {command} --batch_size 6 --epochs 1000"
    process = subprocess.Popen(
        [*torchrun, *ranks.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last, deadline = tmp_path / "checkpoint-last.pth", time.monotonic() + 120
    while not last.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    of_rank = {child.environ().get("RANK"): child for child in children}
    os.kill(of_rank["1"].pid, signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert "lost another process" in output, output
    assert not any(child.is_running() for child in children)
    epoch = load_checkpoint(last)["epoch"]
    resume = f"{command} --batch_size 12 --epochs {epoch + 2} --resume auto"
    assert cli.train(resume.split()) == 0
    assert load_checkpoint(last)["epoch"] == epoch + 1
