"""Launchers, meeting of processes, and their agreement to stop."""

import logging
import os
import random
import signal
import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from fastimae.engine import distributed
from fastimae.engine.distributed import ProcessLost, StopVote, World, alone, join_world
from fastimae.engine.launcher import LaunchSettings

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def launched(monkeypatch):
    """Return a function that sets a launcher's variables and joins a fake world."""
    for name in [*os.environ]:
        if name in PLACE or name.startswith(("OMPI_", "PMI_", "MV2_", "SLURM_")):
            monkeypatch.delenv(name)
    joined = []

    def meet(url, rank, size, timeout):
        joined.append({"url": url, "timeout": timeout})
        return iter([(dist.HashStore(), rank, size)])

    def found(backend, store, **settings):
        joined.append({"backend": backend, **settings})

    monkeypatch.setattr(distributed.dist, "rendezvous", meet)
    monkeypatch.setattr(distributed.dist, "init_process_group", found)

    def pretend(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return joined

    return pretend


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1}, {}),
        ({"SLURM_PROCID": 3, "SLURM_NTASKS": 4, "SLURM_LOCALID": 1}, {}),
        ({"SLURM_PROCID": 3, "SLURM_STEP_NUM_TASKS": 4, "SLURM_NTASKS": 9, "SLURM_STEP_ID": 2}, {}),
        ({"OMPI_COMM_WORLD_RANK": 3, "OMPI_COMM_WORLD_SIZE": 4}, {"dist_on_itp": True}),
    ],
)
def test_launchers(launched, variables, flags):
    joined = launched(**variables)
    world = join_world(
        "cpu", LaunchSettings(world_size=4, dist_url="file:///x", dist_timeout=9, **flags)
    )
    assert (world.rank, world.size, world.is_main) == (3, 4, False)
    wait = timedelta(seconds=9)
    assert joined == [
        {"url": "file:///x", "timeout": wait},
        {"backend": "gloo", "rank": 3, "world_size": 4, "timeout": wait},
    ]


def test_alone_where_nobody_launched(launched):
    joined = launched()
    world = join_world("cpu")
    assert (world.rank, world.size, world.is_main, joined) == (0, 1, True, [])
    assert world.mean(torch.ones(2)).tolist() == [1, 1] and world.any(True)


def test_a_script_of_sbatch_runs_alone_and_says_so(launched, caplog, monkeypatch):
    """It has the variables of a task and the number of tasks, but no other process will come."""
    joined = launched(SLURM_JOB_ID=7, SLURM_NTASKS=8, SLURM_PROCID=0, SLURM_LOCALID=0)
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    world = join_world("cpu")
    assert (world.rank, world.size, world.is_main, joined) == (0, 1, True, [])
    assert "srun did not start this" in caplog.text


def test_who_is_alone_joins_nobody(launched):
    joined = launched(RANK=2, WORLD_SIZE=4, LOCAL_RANK=2)
    world = alone("cpu")
    assert (world.rank, world.size, joined) == (0, 1, [])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": 0, "WORLD_SIZE": 8}, r"process 0 of 8 .* MASTER_ADDR and MASTER_PORT are not"),
        ({"RANK": 0, "WORLD_SIZE": 8, "MASTER_ADDR": "here"}, "MASTER_PORT is not set"),
        ({"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 8, "SLURM_STEP_ID": 0}, "variables of srun"),
        ({"OMPI_COMM_WORLD_RANK": 0, "OMPI_COMM_WORLD_SIZE": 8}, "--dist_on_itp"),
    ],
    ids=["stale", "no port", "srun", "Open MPI"],
)
def test_variables_that_cannot_be_all_are_named_at_once(launched, variables, words):
    joined = launched(**variables)
    with pytest.raises(ValueError, match=words):
        join_world("cpu")
    assert joined == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"world_size": 8}, "--world_size 8, but 1 process"),
        ({"dist_on_itp": True}, "--dist_on_itp"),
        ({"device": "toaster"}, "--device toaster"),
    ],
)
def test_what_cannot_be_is_named(launched, flags, words):
    launched()
    with pytest.raises(ValueError, match=words):
        join_world(flags.pop("device", "auto"), LaunchSettings(**flags))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_named(launched):
    launched()
    with pytest.raises(ValueError, match="--device cuda: torch sees no CUDA device"):
        join_world("cuda")


def test_who_waits_in_vain_is_told_for_whom(launched, monkeypatch, caplog):
    launched(RANK=0, WORLD_SIZE=2)
    monkeypatch.undo()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(logging.getLogger("fastimae"), "propagate", True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ValueError, match=r"process 0 of 2 .* --dist_timeout 1 s"):
        join_world("cpu", LaunchSettings(dist_url=f"tcp://127.0.0.1:{port}", dist_timeout=1))
    assert "process 0 of 2 waits for the others" in caplog.text


@pytest.mark.parametrize("seed", range(20))
def test_all_stop_before_the_same_step_soon_after_one_was_asked(seed):
    """However far ahead of each other they are."""
    draw, store, size = random.Random(seed), dist.HashStore(), 4
    votes = [StopVote(store) for _ in range(size)]
    asked_at, stopped = {draw.randrange(size): draw.randrange(1, 30)}, {}
    if seed % 2:
        asked_at[draw.randrange(size)] = draw.randrange(1, 30)
    latest = None  # the latest step that any had begun when one was asked
    while len(stopped) < size:
        rank = draw.choice([r for r in range(size) if r not in stopped])
        step = votes[rank].step + 1
        asked = step >= asked_at.get(rank, step + 1)
        if asked and latest is None:
            latest = max(vote.step for vote in votes)
        if votes[rank](asked):
            stopped[rank] = step
    assert set(stopped.values()) == {max(latest + 1, min(asked_at.values()))}


def test_alone_one_stops_when_asked():
    world = World(0, 1, torch.device("cpu"))
    assert world.should_stop(True) and not world.should_stop(False) and world.max(3) == 3


def test_a_signal_to_one_process_stops_all_after_its_step(ranks):
    """SIGUSR1 comes before the first of three steps; the other may have begun the second."""
    assert ranks.report["imae_stopped"]["codes"] == [0, 0]
    assert "stopped and saved" in ranks.output("imae_stopped", 0)
    assert "stopping after this step" in ranks.output("imae_stopped", 1)
    index = torch.load(ranks.folder / "imae_stopped" / "checkpoint-last.pth", weights_only=True)
    assert index["epoch"] == 1 and index["step"] in (1, 2)
    assert signal.Signals[index["args"]["preempt_signal"]] == signal.SIGUSR1


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/src/gloo/pair.cc:561] Connection closed by peer [::1]:1. More"), True),
        (dist.DistBackendError("NCCL error in: x, remote process exited"), True),
        (dist.DistNetworkError("Broken pipe"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("gloo"), False),
    ],
    ids=str,
)
def test_errors_for_want_of_another_process_are_told_from_ours(error, lost):
    several, alone = (World(1, size, torch.device("cpu")) for size in (2, 1))
    with pytest.raises(ProcessLost if lost else type(error)) as raised, several.watched():
        raise error
    assert not lost or "--resume auto" in str(raised.value)
    assert "/src/" not in str(raised.value)
    with pytest.raises(type(error)), alone.watched():
        raise error
