"""Resuming with other batches, from finished runs, and errors about unsuitable files."""

import copy
import dataclasses
import json
import logging
from argparse import Namespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from toy_trainer import CPU, Squares, mae_trainer, trainer, weights_of

from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.engine.distributed import World
from fastimae.engine.metrics import LossMeter
from fastimae.engine.resume import resume_trainer
from fastimae.engine.settings import OptimSettings
from fastimae.engine.statistics import load_statistics
from fastimae.models import create_model
from fastimae.objectives.base import Teacher
from fastimae.progress import Bar

LAST = "checkpoint-last.pth"
batches = st.tuples(st.integers(1, 6), st.integers(1, 3))  # size, accumulated


class Stop(Exception):
    """Ends a run as a kill would: nothing is saved."""


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def stopped(path, update, **plan):
    """Return a run that was killed after some steps: only its checkpoints are left."""
    run = trainer(path, save_steps=1, log_steps=100, **plan)
    steps = iter(range(update))
    real = run._train_step

    def step(batches):
        if next(steps, None) is None:
            raise Stop
        real(batches)

    run._train_step = step
    with pytest.raises(Stop):
        run.run()
    return run


def resumed(path, **plan):
    run = trainer(path, **plan)
    resume_trainer(run, load_checkpoint(path / LAST), path / LAST, "--init")
    return run


@settings(max_examples=12, deadline=None)
@given(batches, batches, st.data())
def test_any_batches_go_on_from_any_others(tmp_path_factory, before, after, data):
    """Of 26 samples per epoch none is lost; rates and means are those of the position."""
    path = tmp_path_factory.mktemp("run")
    sizes = [{"batch_size": size, "accum_iter": count, "n": 26} for size, count in (before, after)]
    per_epoch = 26 // (before[0] * before[1])
    update = data.draw(st.integers(1, 3 * per_epoch - 1))
    first = stopped(path, update, **sizes[0])
    run, rates = resumed(path, **sizes[1]), []
    assert run.epoch == update // per_epoch and (run.update == 0 or update % per_epoch)
    start = run.epoch + run.update / run.updates_per_epoch
    run.optimizer.register_step_pre_hook(
        lambda *_: rates.append(run.optimizer.param_groups[0]["lr"])
    )
    assert run.run()
    steps = round((3 - start) * run.updates_per_epoch)
    points = [3 - left / run.updates_per_epoch for left in range(steps, 0, -1)]
    assert rates == pytest.approx([run.plan.lr_at(point, run.world) for point in points])
    assert [line["epoch"] for line in lines_of(path)] == [0, 1, 2]
    seen = [{i for shown in one.objective.seen for i in shown} for one in (first, run)]
    both = min(per_epoch * before[0] * before[1], len(run.loader) * after[0])
    for epoch in range(3):
        assert {100 * epoch + i for i in range(both)} <= seen[0] | seen[1]
    assert load_checkpoint(path / LAST)["step"] == run.updates_per_epoch


def test_the_mean_of_an_epoch_weighs_samples_not_steps(tmp_path):
    """4 steps of 3 samples, then 2 of 6: both halves weigh the same, and repeated samples count
    once."""
    meter = LossMeter(CPU, tmp_path)
    meter.load_state_dict({"names": ["loss"], "sums": [8.0], "count": 4})
    meter.reweigh(2)
    for value in (5.0, 7.0):
        meter.add({"loss": torch.tensor(value)}, 0, 0, torch.zeros(1))
    meter.read()
    assert meter.epoch_means() == {"loss": 4.0}


def test_the_sum_of_an_epoch_does_not_tell_how_often_it_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr(World, "mean", lambda world, values: values / 3)  # of three processes
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(50, generator=generator)
    means = set()
    for every in (1, 3, 50):
        meter = LossMeter(CPU, tmp_path)
        for number, value in enumerate(values):
            meter.add({"loss": value}, 0, number, torch.zeros(1))
            if number % every == 0:
                meter.read()
        meter.read()
        means.add(meter.epoch_means()["loss"])
    assert len(means) == 1


def test_the_bar_and_tensorboard_stand_where_the_run_does(tmp_path, monkeypatch):
    stopped(tmp_path, 7, batch_size=4)  # of 3 epochs of 6 steps
    bars = []
    real = Bar.__init__
    monkeypatch.setattr(
        Bar, "__init__", lambda bar, *own, **more: bars.append(own) or real(bar, *own, **more)
    )
    resumed(tmp_path, batch_size=6, log_steps=2).run()
    assert bars[0][:2] == (12, 4)  # total, done: 4 samples of epoch 1 are repeated
    board = EventAccumulator(str(tmp_path)).Reload()
    steps = [event.step for event in board.Scalars("train_loss")]
    assert steps == sorted(set(steps)) and steps[-1] == 3000


@pytest.mark.parametrize("batch_size", [4, 5])
def test_a_finished_run_stays_as_it_is_and_goes_on_with_more_epochs(tmp_path, batch_size, caplog):
    trainer(tmp_path, epochs=2).run()
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with caplog.at_level(logging.INFO, "fastimae"):
        assert resumed(tmp_path, epochs=2, batch_size=batch_size).run() is True
    assert "is of a finished run: a larger --epochs continues it" in caplog.text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    assert resumed(tmp_path, epochs=4, batch_size=batch_size).run() is True
    assert [line["epoch"] for line in lines_of(tmp_path)] == [0, 1, 2, 3]


def test_fewer_epochs_than_are_done_is_one_line(tmp_path):
    stopped(tmp_path, 14, epochs=3)
    with pytest.raises(CheckpointError, match="past --epochs 2, at step 2 of epoch 2"):
        resumed(tmp_path, epochs=2)
    with pytest.raises(CheckpointError, match=r"past --epochs 1, .*: make --epochs larger"):
        resumed(tmp_path, epochs=1)


def step_of(batch_size, accum_iter, processes, lr=None):
    """Return settings as checkpoints store them."""
    settings = OptimSettings(batch_size=batch_size, accum_iter=accum_iter)
    step = settings.step_of(World(0, processes, CPU.device))
    return {"lr": lr, "blr": 1e-3, "batch_size": batch_size, "accum_iter": accum_iter, **step}


RATE = ", and with that the rate, --blr x effective batch / 256"
STEPS = {
    "processes": (step_of(4, 1, 8), step_of(4, 1, 2),
                  f": processes 8 -> 2, effective batch 32 -> 8{RATE}"),
    "the same images": (step_of(4, 1, 8), step_of(4, 4, 2),
                        ": --accum_iter 1 -> 4, processes 8 -> 2"),
    "a flag": (step_of(4, 1, 2), step_of(8, 1, 2),
               f": --batch_size 4 -> 8, effective batch 8 -> 16{RATE}"),
    "a rate of its own": (step_of(4, 1, 8, 0.1), step_of(4, 1, 2, 0.1),
                          ": processes 8 -> 2, effective batch 32 -> 8"),
    "nothing": (step_of(4, 1, 8), step_of(4, 1, 8), None),
    "unknown": ({"lr": None, "blr": 1e-3}, step_of(4, 1, 8), None),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_another_size_of_step_is_named_though_no_flag_changed(tmp_path, caplog, name):
    before, now, said = STEPS[name]
    run = stopped(tmp_path, 3)
    run.args.clear()
    run.args.update(before)
    run._save()
    run = trainer(tmp_path)
    run.args = dict(now)
    resume_trainer(run, load_checkpoint(tmp_path / LAST), tmp_path / LAST, "--init")
    lines = [line for line in caplog.messages if "settings" in line]
    assert lines == ([f"resumed with other settings than before{said}"] if said else [])


def test_a_rate_follows_the_effective_batch():
    settings, four = OptimSettings(batch_size=64, accum_iter=2, blr=1.5e-4), World(0, 4, CPU.device)
    assert settings.peak_lr(four) == pytest.approx(1.5e-4 * 512 / 256)
    assert dataclasses.replace(settings, lr=0.3).peak_lr(four) == 0.3


def test_settings_in_a_namespace_are_read_like_others(tmp_path, caplog):
    stopped(tmp_path, 3)
    content = load_checkpoint(tmp_path / LAST)
    content["args"] = Namespace(batch_size=9, run="0123456789ab")
    run = trainer(tmp_path)
    resume_trainer(run, content, tmp_path / LAST, "--init")
    assert "--batch_size 9 -> 4" in caplog.text and run.args["run"] == "0123456789ab"


class Drawing(Squares):
    """Notes the random numbers that torch draws in each pass."""

    def forward(self, batch):
        self.drawn = [*getattr(self, "drawn", []), torch.rand(()).item()]
        return super().forward(batch)


def drawn_by(path, rank, seed):
    run = trainer(path, objective=Drawing(), epochs=2, batch_size=2, accum_iter=2, seed=seed)
    run.world = dataclasses.replace(run.world, rank=rank)
    torch.rand(rank + 1)  # earlier draws do not matter
    run.run()
    return run.objective.drawn


def test_draws_follow_from_seed_step_and_rank(tmp_path):
    every = []
    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        every += (drawn := drawn_by(tmp_path, rank, seed))
        assert drawn_by(tmp_path, rank, seed) == drawn
    assert len(every) == 3 * 24 == len(set(every))


def as_before(content):
    """Return a checkpoint in format 1."""
    optimizer = content["optimizer"]
    decayed, plain = optimizer["param_groups"][::-1]
    order = decayed["params"] + plain["params"]
    groups = [
        {**decayed, "params": [*range(len(decayed["params"]))]},
        {**plain, "params": [*range(len(decayed["params"]), len(order))]},
    ]
    state = {new: optimizer["state"][old] for new, old in enumerate(order)}
    loader = {name: content["loader"][name] for name in ("epoch", "step", "stride")}
    return {
        **content,
        "optimizer": {"state": state, "param_groups": groups},
        "scaler": {},
        "rng": {"torch": torch.get_rng_state()},
        "loader": loader,
        "fastimae_format": 1,
    }


@pytest.mark.parametrize("update", [4, 6])
def test_checkpoints_of_format_1_go_on_alike(tmp_path, update):
    runs = []
    for name in ("new", "old"):
        path = tmp_path / name
        path.mkdir()
        stopped(path, update)
        if name == "old":
            torch.save(as_before(load_checkpoint(path / LAST)), path / LAST)
        runs.append(resumed(path))
        runs[-1].run()
    assert torch.equal(weights_of(runs[0]), weights_of(runs[1]))
    assert runs[0].objective.seen == runs[1].objective.seen


def test_a_finished_epoch_of_format_1_is_finished_with_other_accumulation(tmp_path):
    stopped(tmp_path, 2, batch_size=4, accum_iter=4)  # 8 of 24 samples do not fill a step
    content = load_checkpoint(tmp_path / LAST)
    torch.save(as_before(content) | {"args": {"accum_iter": 4}}, tmp_path / LAST)
    run = resumed(tmp_path, batch_size=4)
    assert (run.epoch, run.update) == (2, 0)


def student(**sizes):
    return create_model("mae_vit_nano_patch8", img_size=16, **sizes).state_dict()


CLASSIFIER = {"cls_token": torch.zeros(1), "head.weight": torch.zeros(2, 2)}
OFFICIAL = {
    "model": student(), "optimizer": {}, "epoch": 3, "scaler": {}, "args": Namespace(lr=1),
}  # fmt: skip
FILES = {
    "MAE's": (OFFICIAL, r"is a MAE of MAE's code and not a run .* fastimae_format, loader.*INIT"),
    "released": ({"model": student()}, r"is a MAE and not a run to resume.*INIT"),
    "bare": (student(), r"is a MAE and not a run to resume, it has no .*optimizer.*INIT"),
    "timm": ({"state_dict": CLASSIFIER}, "is a classifier, and this run trains a MAE: START"),
    "fine-tuned": ({"model": CLASSIFIER}, "is a classifier, and this run trains a MAE: START"),
    "encoder": ({"cls_token": torch.zeros(1)}, "is an encoder alone, and this .* a MAE: START"),
    "i-MAE": ({"model": student(heads=2)}, "is an i-MAE, and this run trains a MAE: INIT"),
    "without heads": (
        {"model": student(), "args": {"disentangle": False}},
        "is an i-MAE without heads, and this run trains a MAE: INIT",
    ),
    "probe": ({"0.running_mean": torch.zeros(1)}, "is a linear probe, .*: give the checkpoint-las"),
    "other": ({"fc": torch.zeros(1)}, "a model of another kind, .*: if it is a vision trans.*INIT"),
    "no weights": ({"epoch": 3}, "holds no model weights"),
    "deeper": ("model", student(decoder_depth=3), r"is a MAE with other parts .*\(\d+ names"),
    "wider": ("model", student(decoder_embed_dim=96), "another size: .*: use the flags it was"),
    "opt": ("args", {"opt": "apex_adam"}, "with --opt apex_adam: --opt adamw cannot resume"),
    "groups": ("optimizer", {"state": {}, "param_groups": []}, "state is of other parameters"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_resumed_is_named_in_one_line(tmp_path, name):
    """Each file is a checkpoint of a run with one entry changed, unless it is described as
    something else."""
    run = mae_trainer(tmp_path, [], epochs=3)
    run.args = {"opt": "adamw"}
    content, expected = (FILES[name][0], FILES[name][1])
    if len(FILES[name]) == 3:
        content, expected = {**run.state_dict(), FILES[name][0]: FILES[name][1]}, FILES[name][2]
    path = tmp_path / "some.pth"
    torch.save(content, path)
    expected = expected.replace("INIT", f"--init {path} starts from its weights$")
    partial = " --allow_partial" * ("classifier" in expected)  # which may lack the norm
    expected = expected.replace("START", f"--init {path}{partial} starts its encoder from it$")
    with pytest.raises(CheckpointError, match=expected) as error:
        resume_trainer(run, load_checkpoint(path), path, "--init")
    assert "some.pth" in str(error.value) and "\n" not in str(error.value)
    assert ("--allow_partial" in str(error.value)) == ("--allow_partial" in expected)


def test_folders_and_texts_are_named_too(tmp_path):
    (tmp_path / "notes.txt").write_text("lr 1e-3\n")
    for name, expected in (
        (".", "is a folder: name a checkpoint in it"),
        ("notes.txt", r"notes\.txt is not a checkpoint: torch\.save did not write it"),
        ("gone.pth", r"there is no checkpoint .*gone\.pth"),
    ):
        with pytest.raises(CheckpointError, match=expected) as error:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_settings_of_the_optimizer_are_those_of_this_run(tmp_path):
    stopped(tmp_path, 3)
    run = trainer(tmp_path)
    for group in run.optimizer.param_groups:
        group.update(weight_decay=0.3, betas=(0.5, 0.6))
    resume_trainer(run, load_checkpoint(tmp_path / LAST), tmp_path / LAST, "--init")
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {0.3}
    assert run.optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    assert run.optimizer.state_dict()["state"][0]["step"] == 3


def test_fp16_goes_on_from_other_formats_and_other_code_from_ours(tmp_path):
    stopped(tmp_path, 3)
    content = load_checkpoint(tmp_path / LAST)
    for state in (content["scaler"], {}):
        run = trainer(tmp_path, precision="fp16")
        run.load_state_dict({**content, "scaler": state}, tmp_path / LAST)
        assert run.step.scaler.get_scale() == 2.0**16
    torch.amp.GradScaler("cpu").load_state_dict(content["scaler"])


@pytest.mark.parametrize(("size", "expected"), [(2, 3.0), (1, 2.0), (3, 2.0)])
def test_processes_get_their_statistics_back_and_others_the_mean(size, expected):
    """Two processes saved 1 and 3; this is the second one, or one of another number."""
    objective, content = Squares(), {"statistics": []}
    objective.student = norm = nn.BatchNorm1d(4)
    for value in (1.0, 3.0):
        buffers = {name: torch.full((4,), value) for name in ("running_mean", "running_var")}
        content["statistics"].append(buffers)
    load_statistics(objective, content, dataclasses.replace(CPU, rank=min(1, size - 1), size=size))
    assert norm.running_mean.tolist() == norm.running_var.tolist() == [expected] * 4
    assert norm.num_batches_tracked == 0


class Predicting(Squares):
    """An objective with a predictor, which is trained, and a running mean of the student's weights
    that it predicts."""

    def __init__(self):
        super().__init__()
        self.predictor = nn.Linear(2, 2)
        self.mean = copy.deepcopy(self.student).requires_grad_(False)

    def trainable(self):
        return {"student": self.student, "predictor": self.predictor}

    def teachers(self):
        return {"mean": Teacher(module=self.mean, moves=True)}

    def forward(self, batch):
        error = self.predictor(self.student(batch.x)) - self.mean(batch.x) - 1
        return {"loss": error.square().mean()}

    def after_update(self):
        self.mean.weight.lerp_(self.student.weight, 0.1)


def test_what_an_objective_has_beside_its_student_resumes(tmp_path):
    run = trainer(tmp_path, objective=Predicting(), epochs=2)
    run.run()
    torch.manual_seed(5)
    again = trainer(tmp_path, objective=Predicting(), epochs=2)
    fresh = copy.deepcopy(again.objective.state_dict())
    again.load_state_dict(load_checkpoint(tmp_path / LAST), tmp_path / LAST)
    for name, value in run.objective.state_dict().items():
        assert torch.equal(again.objective.state_dict()[name], value)
    assert not torch.equal(fresh["predictor.weight"], again.objective.predictor.weight)
    assert not torch.equal(again.objective.mean.weight, again.objective.student.weight)


@pytest.mark.parametrize(
    ("saved", "wanted", "kind"),
    [(Squares, Predicting, "missing"), (Predicting, Squares, "unexpected")],
)
def test_a_checkpoint_of_another_objective_is_an_error_that_names_what(
    tmp_path, saved, wanted, kind
):
    trainer(tmp_path, objective=saved(), epochs=1).run()
    run = trainer(tmp_path, objective=wanted())
    before = copy.deepcopy(run.objective.state_dict())
    with pytest.raises(CheckpointError, match=f"{kind} keys: mean.bias, mean.weight, predictor."):
        run.load_state_dict(load_checkpoint(tmp_path / LAST), tmp_path / LAST)
    assert all(
        torch.equal(value, before[name]) for name, value in run.objective.state_dict().items()
    )
