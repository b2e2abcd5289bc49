"""i-MAE's tables on CIFAR-10: times are divided, runs go on, tables say what numbers are of."""

import json
import shlex
import types

import pytest
import torch
from tiny import NAME, tiny_model

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from benchmarks.cifar10 import __main__ as cifar10
from benchmarks.cifar10 import plan as plans
from benchmarks.cifar10 import processes, turns
from benchmarks.cifar10.jobs import Asked, commands_of, jobs_of
from benchmarks.cifar10.pace import (
    FULL,
    Distance,
    Pace,
    choose_epochs,
    common_level,
    pace_of,
    reserve,
    scaled,
    started_in,
    steps_between_saves,
)
from benchmarks.cifar10.plan import Plan, make_plan, read_plan
from benchmarks.cifar10.processes import Watched
from benchmarks.cifar10.progress import epochs_trained, forget, is_current
from benchmarks.cifar10.turns import Turns
from fastimae.engine.checkpoint import LAST, save_checkpoint
from fastimae.evaluate.origin import read_origin
from fastimae.settings import ConfigError

UPDATES = 10
"""Optimizer steps of an epoch."""
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
    assert started_in([behind] * 4, 4.0) == 2 and started_in([behind] * 4, 0.1) == 1
    assert started_in([behind] * 4, 100) == 4


def test_evaluations_have_what_training_leaves_or_a_third():
    assert reserve(50, 40, 100) == 50  # both fit
    assert reserve(50, 400, 90) == 30 and reserve(5, 400, 90) == 5


def test_state_is_kept_every_few_seconds():
    assert steps_between_saves(12, epoch=1.0, seconds=5.0) == 0  # each epoch is saved anyway
    assert steps_between_saves(12, epoch=60.0, seconds=5.0) == 1
    assert steps_between_saves(120, epoch=60.0, seconds=5.0) == 10


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


class Machine:
    """A clock, and runs that take the time of `PACES` and leave what commands leave."""

    def __init__(self, monkeypatch):
        self.now, self.log, self.paces = 1000.0, [], dict(PACES)
        clock = types.SimpleNamespace(monotonic=lambda: self.now)
        for module in (plans, turns):
            monkeypatch.setattr(module, "time", clock)
            monkeypatch.setattr(module, "log_progress", lambda line: None)

    def take(self, job, stop):
        processes.begin(job.run)
        pace, times, begin = self.paces[job.kind], [], self.now
        done = round(epochs_trained(job.run.folder) * UPDATES) if job.trains else 0
        self.now += pace.fixed
        for step in range(done, job.epochs * UPDATES):
            if stop(Watched(self.now - begin, times)):
                break
            self.now += pace.epoch / UPDATES
            done = step + 1
            if done % UPDATES == 0:
                times.append(self.now - begin)
        if job.trains and done:
            self._save(job, done)
        elif done == job.epochs * UPDATES:
            self._results(job)
        self.log.append((job.run.name, done / UPDATES))
        return Watched(self.now - begin, times)

    def _save(self, job, done):
        whole = done % UPDATES == 0
        epoch, step = ((done - UPDATES) // UPDATES, UPDATES) if whole else divmod(done, UPDATES)
        torch.manual_seed(done)
        loader = {"samples": 64, "stride": 2, "accum_iter": 3, "finished": whole}
        content = {"model": tiny_model().state_dict(), "epoch": epoch, "step": step,
                   "loader": loader, "args": {"model": NAME, "epochs": job.epochs}}  # fmt: skip
        save_checkpoint(job.run.folder / LAST, content)
        lines = [json.dumps({"epoch": n}) + "\n" for n in range(done // UPDATES)]
        (job.run.folder / "log.txt").write_text("".join(lines))

    def _results(self, job):
        numbers = {"acc1": self.now, "cross_entropy": 1.0, "table": [
            {"mse_before": 1.0, "mse_after": 0.5, "mse_after_held_out": 0.6}]}  # fmt: skip
        origin = read_origin(job.run.checkpoint)
        content = {"task": job.kind, "numbers": numbers, **origin}
        (job.run.folder / "results.json").write_text(json.dumps(content))


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def go_on(machine, asked, plan, seconds):
    """Call it once; return the jobs, and the seconds it took."""
    jobs, begin = plan.jobs(asked), machine.now
    Turns(jobs, plan, begin + seconds, machine.take).run()
    return jobs, machine.now - begin


def trained_in(jobs):
    return {job.run.name: epochs_trained(job.run.folder) for job in jobs if job.trains}


def test_a_time_is_chosen_for_and_then_it_is_enough(asked, machine):
    until = machine.now + 3000
    plan = make_plan(asked, None, until, machine.take)
    names = [name for name, _ in machine.log]
    assert names == ["baseline", "baseline/finetune", "baseline/linear", "imae-0",
                     "baseline/separability", "no_heads"]  # fmt: skip
    assert {kind: tuple(pace) for kind, pace in plan.paces.items()} == {
        kind: pytest.approx(tuple(pace)) for kind, pace in PACES.items()
    }
    assert not (asked.runs / "pace").exists()
    jobs, _ = go_on(machine, asked, plan, until - machine.now)
    assert all(job.run.done() and (job.trains or is_current(job)) for job in jobs)
    assert 0.8 * until < machine.now < until
    assert set(trained_in(jobs).values()) == {plan.epochs} and plan.train["save_steps"] == 0


def test_calls_go_on_and_all_have_equal_epochs(asked, machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    jobs, took = go_on(machine, asked, plan, 60)  # for the teacher only
    found = trained_in(jobs)
    assert 30 < found.pop("baseline") < 60 and set(found.values()) == {0.0}
    assert took <= 63 and (asked.runs / "baseline/eval-linear/results.json").exists()
    for count in range(3):
        jobs, took = go_on(machine, asked, plan, 200)
        found = trained_in(jobs)
        assert found.pop("baseline") == 60 and took <= 203
        assert max(found.values()) - min(found.values()) <= 2, count
    assert 10 < min(found.values()) < 60
    order = [name for name, _ in machine.log]
    last_of_teacher = len(order) - order[::-1].index("baseline")
    assert "imae-0" not in order[:last_of_teacher]
    while not all(job.run.done() for job in jobs):
        go_on(machine, asked, plan, 200)
    assert all(is_current(job) for job in jobs if not job.trains)
    assert go_on(machine, asked, plan, 200)[1] == 0


def test_numbers_of_earlier_weights_are_named_and_replaced(asked, machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    jobs, _ = go_on(machine, asked, plan, 60)
    studies = commands_of(asked, plan.epochs, plan.train)
    training, linear = jobs[0], next(job for job in jobs if job.kind == "linear")
    before = cifar10.results(studies, jobs, 60)["cells"][0]
    assert before["model"] == "baseline" and before["linear"] < before["epochs"]
    assert before["imae-0"] if "imae-0" in before else True
    assert linear.run.done() and not is_current(linear)
    go_on(machine, asked, plan, 200)
    after = cifar10.results(studies, jobs, 60)["cells"][0]
    assert after["linear"] == after["epochs"] == epochs_trained(training.run.folder) == 60
    assert is_current(linear)
    forget(linear)
    assert not linear.run.folder.exists()


def test_a_slower_machine_still_ends_in_time(asked, machine):
    plan = Plan(epochs=60, paces=dict(PACES))
    machine.paces |= {kind: Pace(2 * a, 3 * b) for kind, (a, b) in PACES.items() if "mae" in kind}
    _, took = go_on(machine, asked, plan, 100)
    assert took <= 110
    assert plan.paces["mae"].epoch == pytest.approx(3.0)  # learned from the run


def test_the_plan_is_kept_and_its_epochs_are_the_folders(asked, machine):
    plan = Plan(epochs=60, train={"vis_freq": 0}, paces=dict(PACES))
    assert read_plan(asked.runs, None) is None
    plan.keep(asked.runs)
    assert read_plan(asked.runs, None) == plan == read_plan(asked.runs, 60)
    with pytest.raises(ConfigError, match="--epochs 50: the runs in .* have 60"):
        read_plan(asked.runs, 50)
    machine.paces["imae"] = Pace(2.0, 900.0)
    with pytest.raises(ConfigError, match=r"--minutes: .*\(imae\)"):
        make_plan(asked, None, machine.now + 100, machine.take)


def test_the_command_prints_tables_and_what_is_missing(asked, machine, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.harness.conditions", lambda *_: {"commit": "x"})
    monkeypatch.setattr("benchmarks.cifar10.tables.markdown", str)
    monkeypatch.setattr(cifar10, "time", types.SimpleNamespace(monotonic=lambda: machine.now))
    monkeypatch.setattr(cifar10, "run_for_some_time", machine.take)
    out = asked.runs.parent / "out.json"
    command = shlex.split(
        f"--ffcv {asked.ffcv} --val {asked.val} --runs {asked.runs} --out {out} --tables 1 "
        "--epochs 40 --minutes 8 -- --batch_size 64"
    )
    assert cifar10.main(command) == 1
    report = json.loads(out.read_text())
    assert report["complete"] and report["epochs"] == 40
    assert [row["model"] for row in report["cells"]][:2] == ["baseline", "imae-0"]
    (study,) = report["studies"].values()
    assert study["table"][0]["finetune, paper"] == 90.78
    page = capsys.readouterr().out
    assert "| model | epochs | planned | finetune | linear |" in page
    assert "where the paper has 2,000" in page and "batch_size 64" in page
    while cifar10.main(command):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert "| imae-1 | 40 | 40 | 40 | 40 |" in lines
