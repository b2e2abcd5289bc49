"""i-MAE's tables on CIFAR-10: times are divided, runs go on, tables say what numbers are of."""

import json
import math
import multiprocessing
import shlex
import signal
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
from toy_images import save_colours

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from benchmarks.cifar10 import __main__ as cifar10
from benchmarks.cifar10 import plan as plans
from benchmarks.cifar10 import processes, turns
from benchmarks.cifar10.jobs import Asked, Job, commands_of, jobs_of
from benchmarks.cifar10.pace import (
    FULL,
    Distance,
    Pace,
    choose_epochs,
    common_level,
    highest_level,
    pace_of,
    reserve,
    scaled,
    started_in,
)
from benchmarks.cifar10.plan import Plan, make_plan, read_plan
from benchmarks.cifar10.processes import Watched, run_for_some_time
from benchmarks.cifar10.progress import epochs_of_result, epochs_trained, forget, is_current
from benchmarks.cifar10.tables import markdown, results
from benchmarks.cifar10.turns import Turns
from fastimae import cli
from fastimae.evaluate.studies.runs import StudyRun, check_same
from fastimae.settings import ConfigError

UPDATES = 10
"""Optimizer steps of an epoch."""
CONDITIONS = {"device": "a CPU", "date": "2026-11-29", "commit": "x", "versions": {}, "command": ""}
PACES = {
    "mae": Pace(2.0, 1.0), "imae": Pace(2.0, 2.0), "imae with a teacher": Pace(2.0, 3.0),
    "msem": Pace(2.0, 4.0), "linear": Pace(2.0, 0.1), "separability": Pace(3.0, 0.0),
}  # fmt: skip


def test_epochs_are_the_most_that_fit():
    runs = [(FULL, Pace(10.0, 0.5)), (100, Pace(5.0, 2.0)), (0, Pace(7.0, 0.0))]

    def seconds(epochs):
        return 22 + 0.5 * epochs + 2.0 * max(1, round(epochs / 20))

    chosen = choose_epochs(runs, 300)
    assert seconds(chosen) <= 300 < seconds(chosen + 1)
    assert choose_epochs(runs, 1e9) == FULL and choose_epochs(runs, 1.0) == 1
    assert (scaled(200, 1000), scaled(100, 1), scaled(0, 1000)) == (100, 1, 0)


def test_the_pace_is_start_and_epochs():
    times = [7.0, 9.0, 11.0, 13.0]  # five seconds of start, two of an epoch, three of end
    assert pace_of(times, 16.0) == Pace(8.0, 2.0)
    assert pace_of([5.0], 6.0) == Pace(6.0, 0.0) == pace_of([], 6.0)


def test_all_get_to_the_same_epochs():
    pace = Pace(1.0, 2.0)
    behind, ahead, far = (Distance(each, 100, pace) for each in (0.0, 10.0, 50.0))
    level = common_level([behind, ahead, far], 62.0)  # 2 of start, 60 for 30 epochs of two
    assert level == pytest.approx(20.0) and level < far.trained
    assert common_level([behind, ahead], 1e6) == 100
    assert common_level([behind], 0.5) == pytest.approx(0.0, abs=1e-6)
    assert started_in([behind] * 4, 4.0) == 2 and started_in([behind] * 4, 0.1) == 0
    assert started_in([behind] * 4, 100) == 4
    assert highest_level([behind, ahead, far], 1) == 10.0
    assert highest_level([behind, behind, far], 1) == 50.0
    assert highest_level([behind, behind], 1) == math.inf == highest_level([behind, far], 2)


def test_evaluations_have_what_training_leaves_or_a_third():
    assert reserve(50, 40, 100) == 50  # both fit
    assert reserve(50, 400, 90) == 30 and reserve(5, 400, 90) == 5


@pytest.fixture
def asked(tmp_path, monkeypatch):
    for name in ("a.beton", "b.beton"):
        (tmp_path / name).touch()
    flags = ("--batch_size", "64")
    return Asked(tmp_path / "a.beton", tmp_path / "b.beton", tmp_path / "runs", (1, 2), flags)


def test_in_full_they_are_the_studies_and_shorter_all_is_shorter(asked):
    full, short = (jobs_of(commands_of(asked, epochs, {})) for epochs in (FULL, 100))
    assert [job.run.name for job in full] == [job.run.name for job in short]
    assert len(full) == 8 + 5 * 2 + 4
    assert not any("--epochs" in job.run.command for job in full)
    flags = [dict(zip(job.run.command, job.run.command[1:], strict=False)) for job in short]
    lengths = {
        job.kind: (each.get("--epochs"), each.get("--warmup_epochs"))
        for job, each in zip(short, flags, strict=True)
    }
    assert lengths == {
        "mae": ("100", "10.0"), "imae": ("100", "10.0"), "imae with a teacher": ("100", "10.0"),
        "msem": ("5", "0.25"), "linear": ("10", "0.5"), "separability": (None, None),
    }  # fmt: skip
    assert [job.epochs for job in full if job.kind == "linear"] == [200] * 5
    by_name = {job.run.name: job for job in short}
    assert {job.kind: job.epochs for job in short}["separability"] == 0
    assert by_name["imae-0.5"].run.needs == ("baseline",)
    short[0].run.check()


def test_changes_are_of_the_studies_that_have_the_part(asked):
    wider = asked._replace(set=["evaluations.linear.epochs=7", "models.no_heads.mask_ratio=0.5"])
    jobs = {job.run.name: job.run.command for job in jobs_of(commands_of(wider, FULL, {}))}
    assert jobs["imae-1/linear"][-2:] == ["--epochs", "7"]
    assert "--mask_ratio" in jobs["no_heads"] and "no_heads/linear" not in jobs
    with pytest.raises(ConfigError, match=r"--set evaluations.knn.k=5: none of the tables"):
        commands_of(asked._replace(set=["evaluations.knn.k=5"]), FULL, {})


class Machine:
    """A clock, and four models whose runs take the time of `PACES`."""

    def __init__(self, monkeypatch):
        self.now, self.order, self.paces = 1000.0, [], dict(PACES)
        self.asked = []
        """What commands were asked for."""
        self.steps, self.weights = {}, {}
        """Of each training; and of the weights that each finished evaluation is of."""
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        for module in (plans, turns):
            monkeypatch.setattr(module, "time", clock)
            monkeypatch.setattr(module, "log_progress", lambda line: None)
        monkeypatch.setattr(turns, "epochs_trained", lambda f: self.steps.get(f.name, 0) / UPDATES)
        monkeypatch.setattr(turns, "is_current", self.is_current)
        monkeypatch.setattr(turns, "forget", lambda job: self.weights.pop(job.run.name))
        monkeypatch.setattr(Plan, "jobs", lambda plan, asked: self.jobs(plan.epochs))

    def is_current(self, job):
        steps = self.steps[job.run.checkpoint.name]
        return self.weights.get(job.run.name, steps) == steps

    def jobs(self, epochs):
        kinds = {"baseline": "mae", "no_heads": "imae", "imae-0": "imae with a teacher",
                 "imae-1": "imae with a teacher"}  # fmt: skip
        tasks = {"msem": 100, "linear": 200, "separability": 0}
        found = []
        for name, kind in kinds.items():
            needs = ("baseline",) if "teacher" in kind else ()
            done = lambda n=name: self.steps.get(n) == epochs * UPDATES  # noqa: E731
            run = StudyRun(name=name, folder=Path(name), command=(), done=done, needs=needs)
            found.append(Job(run, kind, epochs))
            for task, full in tasks.items():
                run = StudyRun(
                    name=f"{name}/{task}", folder=Path(name, task), command=(),
                    needs=(name, "baseline"), checkpoint=Path(name),
                    done=lambda n=f"{name}/{task}": n in self.weights,
                )  # fmt: skip
                found.append(Job(run, task, scaled(full, epochs)))
        return found

    def take(self, job, stop):
        name, pace, times, begin = job.run.name, self.paces[job.kind], [], self.now
        done, end = self.steps.get(name, 0) if job.trains else 0, job.epochs * UPDATES
        self.now += pace.fixed
        while done < end and not stop(Watched(self.now - begin, times)):
            self.now += pace.epoch / UPDATES
            done += 1
            times += [self.now - begin] if done % UPDATES == 0 else []
        if job.trains:
            self.steps[name] = done
        elif done == end:
            self.weights[name] = self.steps[job.run.checkpoint.name]
        self.order.append(name)
        return Watched(self.now - begin, times)

    def go_on(self, plan, seconds):
        """Call it once; return the jobs, and the seconds it took."""
        jobs, begin = self.jobs(plan.epochs), self.now
        Turns(jobs, plan, begin + seconds, self.take).run()
        return jobs, self.now - begin

    def epochs(self):
        return {name: self.steps.get(name, 0) / UPDATES for name in MODELS}


MODELS = ("baseline", "no_heads", "imae-0", "imae-1")


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_a_time_is_chosen_for_and_then_it_is_enough(asked, machine):
    begin = machine.now
    plan = make_plan(asked, None, begin + 2000, machine.take)
    assert machine.order == ["baseline", *(f"baseline/{task}" for task in
                             ("msem", "linear", "separability")), "no_heads", "imae-0"]  # fmt: skip
    assert {kind: tuple(pace) for kind, pace in plan.paces.items()} == {
        kind: pytest.approx(tuple(pace)) for kind, pace in PACES.items()
    }
    machine.steps, machine.weights = {}, {}
    jobs, _ = machine.go_on(plan, begin + 2000 - machine.now)
    assert all(job.run.done() and (job.trains or machine.is_current(job)) for job in jobs)
    assert 1600 < machine.now - begin < 2000
    assert set(machine.epochs().values()) == {plan.epochs} and plan.train["save_seconds"] == 5


def test_calls_go_on_and_all_have_equal_epochs(machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    _, took = machine.go_on(plan, 60)  # for the teacher only
    found = machine.epochs()
    assert 30 < found.pop("baseline") < 60 and set(found.values()) == {0.0}
    assert took <= 63 and "baseline/linear" in machine.weights
    for _ in range(3):
        jobs, took = machine.go_on(plan, 120)
        found = machine.epochs()
        assert found.pop("baseline") == 60 and took <= 123
        assert max(found.values()) - min(found.values()) <= 2
    assert 10 < min(found.values()) < 60
    last_of_teacher = len(machine.order) - machine.order[::-1].index("baseline")
    assert "imae-0" not in machine.order[: machine.order.index("baseline", 1)]
    assert last_of_teacher > 1
    while not all(job.run.done() for job in jobs):
        machine.go_on(plan, 120)
    assert all(machine.is_current(job) for job in jobs if not job.trains)
    assert machine.go_on(plan, 120)[1] == 0


def test_a_faster_machine_trains_all_further(machine):
    machine.paces |= {kind: Pace(a, b / 3) for kind, (a, b) in PACES.items() if "mae" in kind}
    plan = Plan(epochs=60, paces=dict(PACES))
    machine.steps["baseline"] = 60 * UPDATES
    _, took = machine.go_on(plan, 120)
    found = [machine.epochs()[name] for name in MODELS[1:]]
    assert max(found) - min(found) <= 2 and took <= 123
    assert sum(found) + 2 * len(found) > 60  # seconds; without a second round it is half


def test_those_that_are_behind_only_catch_up_if_there_is_no_time_for_all(machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    machine.steps = dict.fromkeys(MODELS, 20 * UPDATES) | {"baseline": 60 * UPDATES}
    machine.steps["imae-1"] = 17 * UPDATES
    machine.weights = {job.run.name: machine.steps[job.run.checkpoint.name]
                       for job in machine.jobs(60) if not job.trains}  # fmt: skip
    machine.go_on(plan, 11)
    assert machine.epochs()["imae-1"] <= 20 == machine.epochs()["no_heads"]


def test_a_slower_machine_still_ends_in_time(machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    machine.paces |= {kind: Pace(2 * a, 3 * b) for kind, (a, b) in PACES.items() if "mae" in kind}
    assert machine.go_on(plan, 100)[1] <= 110
    assert plan.paces["mae"].epoch == pytest.approx(3.0)  # learned from the run


def test_a_call_that_can_do_nothing_is_an_error(machine):
    """Else whoever repeats it waits forever."""
    plan = Plan(epochs=60, paces=dict(PACES))
    with pytest.raises(ConfigError, match=r"--minutes: too short .* takes 2 s to start"):
        machine.go_on(plan, 1)


def test_the_plan_is_kept_and_its_epochs_are_the_folders(asked, machine):
    plan = Plan(epochs=60, train={"vis_freq": 0}, paces=dict(PACES))
    assert read_plan(asked.runs, None) is None
    plan.keep(asked.runs)
    assert read_plan(asked.runs, None) == plan == read_plan(asked.runs, 60)
    with pytest.raises(ConfigError, match=r"--epochs 50: the runs in .* have 60"):
        read_plan(asked.runs, 50)


@pytest.mark.parametrize(
    ("kind", "less"), [("imae", "-- --images"), ("msem", "--set evaluations.msem.label_fraction")]
)
def test_a_machine_that_is_too_slow_to_be_measured(kind, less, asked, machine):
    machine.paces[kind] = Pace(2.0, 900.0)
    with pytest.raises(ConfigError, match=f"--minutes: .* two epochs of {kind} .* {less}"):
        make_plan(asked, None, machine.now + 200, machine.take)


def test_progress_is_read_from_what_the_commands_leave(tmp_path):
    """A real training and a real probe, and the tables of a folder in which all else is missing."""
    data = [save_colours(tmp_path / name, 4, seed=len(name)) for name in ("train", "val")]
    betons = [folder.with_suffix(".beton") for folder in data]
    for folder, beton in zip(data, betons, strict=True):
        assert cli.convert([str(folder), str(beton)]) == 0
    flags = shlex.split(
        "--model mae_vit_nano_patch16 --batch_size 2 --accum_iter 2 --precision fp32"
    )
    asked = Asked(*betons, tmp_path / "runs", (1,), flags, ["evaluations.linear.batch_size=8"])
    studies = commands_of(asked, 2, {"save_steps": 1})
    training, _, linear, *_ = jobs = jobs_of(studies)
    run_in_process(training)
    assert epochs_trained(training.run.folder) == 2 and training.run.done()
    run_in_process(linear)
    assert is_current(linear)
    assert epochs_of_result(linear.run.folder, training.run.folder) == 2
    report = results(studies, jobs, 2)
    assert report["cells"][0] == {
        "model": "baseline", "epochs": 2, "planned": 2, "finetune": None, "linear": 2,
    }  # fmt: skip
    assert report["cells"][1]["epochs"] == 0
    (study,) = report["studies"].values()
    first = study["table"][0]
    assert first["linear"] is not None and first["linear, paper"] == 72.47
    page = markdown(report)
    assert "| model | epochs | planned | finetune | linear |\n" in page
    assert "| baseline | 2 | 2 | - | 2 |" in page and "where the paper has 2,000" in page
    (linear.run.folder / "results.json").write_text(json.dumps({
        "task": "linear", "weights": "others", "epoch": 0, "step": 1, "numbers": {"acc1": 50.0},
    }))  # fmt: skip
    assert not is_current(linear)
    assert results(studies, jobs, 2)["cells"][0]["linear"] == pytest.approx(1 / 3)
    check_same(linear.run)
    with pytest.raises(ConfigError, match="eval-linear belongs to another command"):
        check_same(linear.run._replace(command=(*linear.run.command, "--seed", "1")))
    forget(linear)
    assert not linear.run.folder.exists() and is_current(linear)


def run_in_process(job):
    program, *arguments = job.run.command
    assert processes.begin(job.run)
    assert getattr(cli, processes._FUNCTIONS[program])(arguments) == 0


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Be a job, in a fork of this process, whose command is to be put in place of `train`."""
    monkeypatch.setattr(processes, "_context", lambda: multiprocessing.get_context("fork"))
    run = StudyRun(
        name="baseline", folder=tmp_path, command=("fastimae-train", "--x"), done=lambda: False
    )
    return Job(run, "mae", 9)


def test_a_command_is_stopped_at_an_epoch_and_may_save(job, monkeypatch):
    def train(arguments):
        assert arguments == ("--x",)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit((job.run.folder / "saved").touch()))
        for _ in range(1000):
            with (job.run.folder / "log.txt").open("a") as log:
                log.write("{}\n")
            time.sleep(0.05)

    monkeypatch.setattr(cli, "train", train)
    for count in (1, 2):
        seen = run_for_some_time(job, lambda seen: len(seen.times) >= 3)
        lines = (job.run.folder / "log.txt").read_text().splitlines()
        assert 3 * count <= len(lines) < 20 * count and (job.run.folder / "saved").exists()
        assert sorted(seen.times) == seen.times and seen.times[-1] <= seen.seconds < 10


def test_a_command_that_does_not_stop_is_killed(job, monkeypatch):
    def train(arguments):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (job.run.folder / "hangs").touch()
        time.sleep(600)

    monkeypatch.setattr(cli, "train", train)
    monkeypatch.setattr(processes, "GRACE", 0.1)
    seen = run_for_some_time(job, lambda _: (job.run.folder / "hangs").exists())
    assert seen.seconds < 10 and not seen.times


def test_a_command_that_fails_is_an_error(job, monkeypatch):
    monkeypatch.setattr(cli, "train", lambda arguments: 2)
    with pytest.raises(ConfigError, match="baseline failed with exit status 2"):
        run_for_some_time(job, lambda seen: False)


@pytest.fixture
def command(asked, machine, monkeypatch, tmp_path):
    """Return a function (take) -> exit status and report of a call of three minutes."""
    monkeypatch.setattr("benchmarks.harness.conditions", lambda *_: CONDITIONS)
    begun = psutil.Process().create_time()
    clock = types.SimpleNamespace(monotonic=lambda: machine.now, time=lambda: begun)
    monkeypatch.setattr(cifar10, "time", clock)
    monkeypatch.setattr(cifar10, "warm_up", lambda: None)
    monkeypatch.setattr(cifar10, "jobs_of", lambda studies: machine.jobs(40))
    monkeypatch.setattr(cifar10, "commands_of", lambda *parts: machine.asked.append(parts) or {})
    Plan(epochs=40, train={"vis_freq": 0}, paces=dict(PACES)).keep(asked.runs)
    out = tmp_path / "out.json"
    words = f"--ffcv {asked.ffcv} --val {asked.val} --runs {asked.runs} --out {out} --minutes 3"

    def call(take, *more):
        monkeypatch.setattr(cifar10, "run_for_some_time", take)
        status = cifar10.main([*shlex.split(words), *more, "--", "--batch_size", "64"])
        return status, json.loads(out.read_text())

    return call


def test_the_command_goes_on_until_all_is_done(asked, machine, command, capsys):
    status, report = command(machine.take, "--epochs", "40")
    assert machine.asked == [(asked._replace(tables=(1, 2, 3, 4)), 40, {"vis_freq": 0})]
    assert (status, report["complete"], report["epochs"]) == (0, False, 40)
    assert capsys.readouterr().err.endswith(": run the same command to go on\n")
    calls = 1
    while not report["complete"]:
        status, report = command(machine.take)
        calls += 1
    assert status == 0 and calls < 10 and set(machine.epochs().values()) == {40}
    assert capsys.readouterr().err.endswith("16 of 16 runs are at their end\n")


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, 130), (ConfigError("linear failed"), 2)]
)
def test_what_there_is_is_kept_however_a_call_ends(
    error, status, machine, command, tmp_path, capsys
):
    """After each run, Ctrl-C, and a run that fails."""
    kept = []

    def take(job, stop):
        kept.append((tmp_path / "out.json").exists())
        if len(kept) == 3:
            raise error
        return machine.take(job, stop)

    assert command(take)[0] == status
    assert kept == [False, True, True]
    printed = capsys.readouterr()
    assert "of 16 runs are at their end: run" in printed.err and "| baseline |" in printed.out
