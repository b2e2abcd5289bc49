"""Gradients that NCCL averages within a captured step, on one GPU and on two."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from fastimae.engine.buckets import Buckets
from fastimae.engine.graph import forget_graphs, record_cuda_graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TESTS = Path(__file__).resolve().parents[1]
WARM_UP_PASSES = 3


@pytest.fixture
def nccl():
    """Make a group of only this process, which can be destroyed although graphs were captured."""
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    yield
    forget_graphs()
    dist.destroy_process_group()


def make_net(dtype):
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(256, 256), nn.GELU())]
    return nn.Sequential(*layers).cuda().to(dtype)


def take_step(net, buckets, inputs):
    """Train on the mean gradient of all inputs, and return the loss of the last."""
    for number, x in enumerate(inputs):
        with buckets.backward(add=number > 0, last=number == len(inputs) - 1):
            loss = net(x).square().mean()
            loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.5 * buckets.means[parameter]
    return loss.detach()


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_recorded_step_averages_by_nccl(dtype, passes, nccl, request):
    """A replay gives the weights of an eager step, and the host never waits."""
    plain = make_net(dtype)
    net = copy.deepcopy(plain)
    sizes = {"first_bytes": 1000, "full_bytes": 300_000}
    by_hand, ours = Buckets([*plain.parameters()], **sizes), Buckets([*net.parameters()], **sizes)
    assert len(ours.buckets) > 2
    inputs = torch.randn(5, passes, 64, 256, device="cuda", dtype=dtype)
    given = inputs[0].clone()
    for _ in range(WARM_UP_PASSES):
        take_step(net, ours, given)
    net.load_state_dict(plain.state_dict())
    replay = record_cuda_graph(lambda: take_step(net, ours, given))
    request.getfixturevalue("no_sync")
    losses = []
    for later in inputs:
        given.copy_(later)
        losses.append((replay().clone(), take_step(plain, by_hand, later)))
    torch.cuda.set_sync_debug_mode("default")
    for ours_, theirs in losses:
        torch.testing.assert_close(ours_, theirs, rtol=1e-2, atol=0)
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_recorded_and_as_plain(tmp_path):
    """Both have the same weights after each step, and neither hangs at the end."""
    places = (TESTS.parent, TESTS, TESTS / "engine")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    command = [sys.executable, str(Path(__file__).with_name("two_gpus.py")), str(tmp_path)]
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    printed = [path.read_text() for path in tmp_path.glob("*.txt")]
    assert run.returncode == 0, "\n".join([run.stderr, *printed])
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    for name in ("recorded", "plain"):
        assert first[name]["digests"] == second[name]["digests"]
        assert first[name]["failure"] == "None"
    assert first["recorded"]["losses"] == pytest.approx(first["plain"]["losses"], rel=1e-2)
