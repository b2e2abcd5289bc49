"""Who starts the processes, and that two ranks train as one."""

import pytest
import torch

from fastimae.engine import distributed
from fastimae.engine.distributed import join_world


@pytest.fixture
def launched(monkeypatch):
    """Function: pretend that a launcher set these variables; nothing is really joined."""
    for names in (*distributed._LAUNCHERS, distributed._OPEN_MPI):
        for name in names:
            monkeypatch.delenv(name, raising=False)
    joined = []
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *a, **k: joined.append(k))

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
        ({"OMPI_COMM_WORLD_RANK": 3, "OMPI_COMM_WORLD_SIZE": 4}, {"dist_on_itp": True}),
    ],
)
def test_launchers(launched, variables, flags):
    joined = launched(**variables)
    world = join_world("cpu", world_size=4, dist_url="file:///x", **flags)
    assert (world.rank, world.size, world.is_main) == (3, 4, False)
    assert joined == [{"init_method": "file:///x", "rank": 3, "world_size": 4}]


def test_alone_where_nobody_launched(launched):
    joined = launched()
    world = join_world("cpu")
    assert (world.rank, world.size, world.is_main, joined) == (0, 1, True, [])
    assert world.mean(torch.ones(2)).tolist() == [1, 1] and world.any(True)


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
        join_world(**flags)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_named(launched):
    launched()
    with pytest.raises(ValueError, match="--device cuda: torch sees no CUDA device"):
        join_world("cuda")
