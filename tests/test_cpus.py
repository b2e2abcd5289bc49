"""The number of workers follows from the cores there are: affinity, quotas, processes of a run."""

import os

import pytest
from toy_images import save_colours

from fastimae import cpus
from fastimae.cpus import cpu_quotas, usable_cores, worker_count
from fastimae.loaders import create_loader
from fastimae.loaders.settings import LoaderSettings


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets what limits this process; by default, 12 cores."""

    def set_limits(cores=12, quotas=(), **environment):
        for name in ("LOCAL_WORLD_SIZE", "SLURM_CPUS_PER_TASK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(cpus, "cpu_quotas", lambda: list(quotas))

    set_limits()
    return set_limits


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({}, 12),
        ({"cores": 3}, 3),
        ({"quotas": [2.0]}, 2),
        ({"quotas": [1.5, 100.0]}, 2),
        ({"quotas": [0.1]}, 1),
        ({"quotas": [64.0]}, 12),
        ({"SLURM_CPUS_PER_TASK": "5"}, 5),
        ({"LOCAL_WORLD_SIZE": "4"}, 3),
        ({"LOCAL_WORLD_SIZE": "5"}, 2),
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
        ({"quotas": [6], "LOCAL_WORLD_SIZE": "2"}, 3),
        ({"LOCAL_WORLD_SIZE": "nonsense", "SLURM_CPUS_PER_TASK": ""}, 12),
    ],
)
def test_there_are_as_many_workers_as_cores_for_this_process(limits, count, machine):
    machine(**limits)
    assert worker_count(None) == count
    assert [worker_count(asked) for asked in (0, 1, 99)] == [0, 1, 99]


def test_loaders_use_that_count_unless_told(machine):
    machine(cores=3)
    settings = {"synthetic": True, "batch_size": 2, "mix_group": 0}
    assert LoaderSettings(**settings).num_workers is None, "so that settings travel"
    assert LoaderSettings(**settings).worker_count() == 3
    assert LoaderSettings(**settings, num_workers=0).worker_count() == 0


def test_the_loader_starts_as_many_workers(machine, tmp_path):
    machine(cores=2)
    save_colours(tmp_path, per_class=2)
    with create_loader(data_path=tmp_path, batch_size=2, mix_group=0, input_size=(8, 8)) as loader:
        assert loader.num_workers == 2


def files(root, content):
    for name, text in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "content", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "400000 100000\n"}, [4.0]),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, [2.0]),
        (
            "5:cpu,cpuacct:/docker/x\n3:memory:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "25000\n"},
            [2.0],
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
        ("0::/\n", {"cpu.max": "nonsense\n"}, []),
        ("0::/\n", {}, []),
    ],
    ids=["v2", "v2 nested", "v2 host path", "v1", "v1 unlimited", "unreadable", "none"],
)
def test_the_quota_of_a_container_is_read(groups, content, quotas, tmp_path):
    files(tmp_path, {"cgroup": groups, **{f"mount/{name}": text for name, text in content.items()}})
    assert cpu_quotas(tmp_path / "cgroup", tmp_path / "mount") == quotas


def test_this_machine_is_no_error():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert all(quota > 0 for quota in cpu_quotas())
