"""A killed process ends the run soon and clearly, and the run resumes from its checkpoint."""

import signal

import pytest
import torch

from fastimae.engine.checkpoint import load_checkpoint


def test_survivors_end_by_themselves_with_one_line(ranks):
    """Without torchrun, as under SLURM, after the other rank and its store are gone; long before
    --dist_timeout, which is 600 seconds."""
    run = ranks.report["killed"]
    assert run["codes"] == [-signal.SIGKILL, 2] and run["seconds"] < 300
    output = ranks.output("killed", 1).strip().splitlines()
    assert output[-1].startswith("fastimae-train: error: process 1 lost another process")
    assert "--resume auto" in output[-1] and not any("Traceback" in line for line in output)


@pytest.mark.parametrize("name", ["revived", "after_torchrun"])
def test_a_killed_run_resumes_to_the_same_weights(ranks, name):
    output = ranks.output(name, 0)
    assert ranks.report[name]["codes"] == [0], output
    assert ", processes 2 -> 1" in output and "effective batch" not in output.split("settings")[1]
    alone, revived = (
        load_checkpoint(ranks.folder / run / "checkpoint-last.pth") for run in ("imae_1", name)
    )
    assert revived["epoch"] == alone["epoch"] == 1
    for key, value in alone["model"].items():
        torch.testing.assert_close(revived["model"][key], value, rtol=1e-3, atol=1e-4, msg=key)
    losses = [[line["train_loss"] for line in ranks.log(run)] for run in ("imae_1", name)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_torchrun_ends_all(ranks):
    """Its agent notices that one process was killed, and asks the other one to stop."""
    output = ranks.output("torchrun", 0)
    assert ranks.report["torchrun"]["codes"] == [1], output
    assert "lost another process" in output and "left over: []" in output, output
