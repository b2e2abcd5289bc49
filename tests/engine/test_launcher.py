"""From a launcher's environment variables to this process's rank; surplus processes."""

import os
import subprocess
import sys

import pytest

from fastimae import cli
from fastimae.engine.launcher import (
    Launched,
    is_batch_script,
    read_any_launch,
    read_launch,
    without_ranks,
)
from fastimae.evaluate.command import TASKS

BATCH = {
    "SLURM_JOB_ID": "200505", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_TASK_PID": "16360", "SLURM_NNODES": "1",
}  # fmt: skip
"""The variables of an sbatch script."""
TASK = {**BATCH, "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
STEP = {"SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NUM_TASKS": "8"}
SHELL = {**BATCH, **STEP, "SLURM_STEP_ID": "4294967290", "SLURM_PTY_PORT": "34889"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
MPI = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
INTEL = {"PMI_RANK": "5", "PMI_SIZE": "16", "MPI_LOCALRANKID": "1"}
ORTED = {**BATCH, **STEP, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
"""The variables of mpirun's daemon, one per node, which its processes inherit."""


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, None),
        (BATCH, None),
        ({"SLURM_NTASKS": "8"}, None),
        (SHELL, None),
        ({**TASK, **STEP}, Launched(3, 8, 1, "srun")),
        ({**TASK, **STEP, "SLURM_STEP_NUM_TASKS": "4"}, Launched(3, 4, 1, "srun")),
        ({**BATCH, **STEP}, Launched(0, 8, 0, "srun")),
        ({**TASK, **STEP, "PMI_RANK": "3", "PMI_SIZE": "8"}, Launched(3, 8, 1, "srun")),
        ({**BATCH, **TORCHRUN}, Launched(1, 2, 1, "torchrun")),
        ({**ORTED, **MPI, **TORCHRUN}, Launched(1, 2, 1, "torchrun")),
        ({**BATCH, "PMI_RANK": "0", "PMI_SIZE": "1"}, Launched(0, 1, -1, "MPI")),
        ({"WORLD_SIZE": "8"}, None),
    ],
    ids=[
        "nothing", "sbatch", "salloc", "salloc's step", "srun", "srun -n 4", "first of srun",
        "srun --mpi=pmi2", "torchrun in sbatch", "torchrun in mpirun", "one of MPI", "size alone",
    ],
)  # fmt: skip
def test_places(env, place):
    assert read_launch(env) == place


def test_a_shell_of_srun_on_a_terminal_is_alone(monkeypatch):
    """srun -n 8 --pty bash: the other seven shells have ended at once."""
    shell = {**BATCH, **STEP, "SLURM_PTY_PORT": "34889"}
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 0)
    assert read_launch(shell) is None
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)  # srun once more, inside
    assert read_launch(shell) == Launched(0, 8, 0, "srun")


@pytest.mark.parametrize("env", [MPI, {**ORTED, **MPI}, INTEL, {**ORTED, **INTEL}])
def test_processes_of_mpi_do_not_each_take_themselves_for_the_only_one(env):
    with pytest.raises(ValueError, match=r"started 16 processes, .* RANK=\$\w+ and WORLD_SIZE=\$"):
        read_launch(env)
    assert read_any_launch(env)[:3] == (5, 16, 1)
    if env.keys() >= MPI.keys():
        assert read_launch(env, open_mpi=True) == Launched(5, 16, 1, "Open MPI")


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RANK": "3"}, "RANK=3 is set and WORLD_SIZE is not"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK=x is not a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 does not fit WORLD_SIZE=2"),
    ],
)
def test_what_cannot_be_is_named(env, words):
    with pytest.raises(ValueError, match=words):
        read_launch(env)


@pytest.mark.parametrize("env", [TORCHRUN, MPI, INTEL, {**TASK, **STEP}])
def test_a_command_of_its_own_is_launched_by_nobody(env):
    assert read_any_launch(without_ranks(env)) is None
    assert without_ranks({"HOME": "x", **env})["HOME"] == "x"
    assert not is_batch_script(without_ranks({**BATCH, **env}))


ONE_PROCESS = {
    "convert": (cli.convert, ["SRC", "OUT.beton"]),
    "doctor": (cli.doctor, []),
    "bench": (cli.bench, []),
    "export": (cli.export, []),
    "import": (cli.import_, []),
    **{name: (cli.evaluate, [name]) for name, task in TASKS.items() if not task.several},
}


@pytest.fixture
def nothing_else(monkeypatch):
    """Check that no launcher's variables are set."""
    for name in [*os.environ]:
        if name not in without_ranks(os.environ):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize("name", ONE_PROCESS)
@pytest.mark.parametrize("env", [TORCHRUN, {**TASK, **STEP}, MPI], ids=["torchrun", "srun", "mpi"])
def test_work_of_one_process_is_left_to_the_first(name, env, monkeypatch, capsys):
    command, arguments = ONE_PROCESS[name]
    for variable, value in env.items():
        monkeypatch.setenv(variable, value)
    assert command(arguments) == 0
    said = capsys.readouterr().err
    assert "needs one process: this one" in said and said.count("\n") == 1


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize("name", ["weights", "tsne", "attention", "reconstruct"])
def test_the_first_does_it_without_waiting_for_others(name, monkeypatch, capsys, tmp_path):
    """It ends with the error of its own arguments, not after --dist_timeout."""
    for variable, value in {**TORCHRUN, "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    flags = ["--device", "cpu"] if name != "weights" else []
    assert cli.evaluate([name, "--checkpoint", str(tmp_path / "none.pth"), *flags]) == 2
    assert "none.pth" in capsys.readouterr().err


def test_torch_is_not_needed_to_step_aside():
    code = "import sys, fastimae.engine.launcher; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
