"""--model_ema: an average of the student's weights that training does not notice."""

import copy

import pytest
import torch
from tape import record_on_tape
from tiny import predict_alike, save_run, tiny_model
from torch import nn
from toy_trainer import CPU, Samples, trainer

from fastimae import cli
from fastimae.engine.averaged_weights import EMA, EMA_UPDATES, AveragedWeights
from fastimae.engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from fastimae.engine.find_weights import find_weights
from fastimae.engine.optim import build_optimizer
from fastimae.engine.step import GraphedStep, Step
from fastimae.interop import load_model
from fastimae.models import create_model
from fastimae.objectives import MAE

DECAY = 0.6  # reached after the 13th update


def averaging(path, decay=DECAY, **settings):
    """Return a trainer of a line with an average of its weights."""
    run = trainer(path, **settings)
    run.step.average = AveragedWeights(run.objective.student, decay)
    return run


def by_hand(weights, decay=DECAY):
    """Return the average of weights [updates + 1, ...], the initial ones first, in float64."""
    average, *later = weights.double()
    for t, now in enumerate(later):
        kept = min(decay, (1 + t) / (10 + t))
        average = kept * average + (1 - kept) * now
    return average


@pytest.fixture
def history(monkeypatch):
    """Return the list that each update's weights are added to."""
    seen, update = [], AveragedWeights.update

    def noting(self):
        seen.append(self.module.weight.detach().clone())
        update(self)

    monkeypatch.setattr(AveragedWeights, "update", noting)
    return seen


@pytest.mark.parametrize("accum_iter", [1, 2])
def test_the_average_is_that_of_a_loop_in_float64(tmp_path, history, accum_iter):
    run = averaging(tmp_path, accum_iter=accum_iter, epochs=6)
    first = run.objective.student.weight.detach().clone()
    run.run()
    assert len(history) == run.step.average.updates == 36 // accum_iter
    expected = by_hand(torch.stack([first, *history]))
    torch.testing.assert_close(run.step.average.of["weight"].double(), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(expected.float(), history[-1], rtol=1e-3)


def test_training_is_the_same_with_it(tmp_path):
    runs = trainer(tmp_path / "plain"), averaging(tmp_path / "averaging")
    for run in runs:
        run.output_dir.mkdir()
        run.run()
    contents = [load_checkpoint(run.output_dir / LAST) for run in runs]
    assert contents[1].keys() - contents[0].keys() == {EMA, EMA_UPDATES}
    for name, value in contents[0]["model"].items():
        assert torch.equal(contents[1]["model"][name], value)
        assert not torch.equal(contents[1][EMA][name], value)


def test_a_skipped_step_of_fp16_takes_the_same_weights_again(tmp_path, history):
    """The average stays finite, as the weights do."""
    run = averaging(tmp_path, precision="fp16")
    step, student = run.step, run.objective.student
    weights = [student.weight.detach().clone()]
    for poison in (None, 1, None):
        run.objective.poison = poison
        step.advance(Samples(torch.arange(4)), 0.1, last=True)
        weights.append(student.weight.detach().clone())
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[2], weights[3])
    torch.testing.assert_close(
        step.average.of["weight"].double(), by_hand(torch.stack(weights)), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_replay_averages_and_a_dry_run_does_not(make_batch, precision):
    torch.manual_seed(0)
    first = MAE(create_model("mae_vit_nano_patch8", img_size=32, depth=1))
    steps = []
    for objective, kind in ((first, Step), (copy.deepcopy(first), GraphedStep)):
        optimizer = build_optimizer(objective, 1e-2, 0.05)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(1e-2)
        average = AveragedWeights(objective.student, DECAY)
        average.of["cls_token"] += 1  # as if training had moved on: an update would change it
        steps.append(
            kind(objective, optimizer, precision=precision, device=CPU.device, average=average)
        )
    plain, recorded = steps
    recorded.record = lambda function: record_on_tape(recorded, function)
    recorded.prepare(make_batch(4))
    assert recorded.replays and recorded.average.updates == 0
    for number in range(3):
        for name, value in plain.average.of.items():
            assert torch.equal(recorded.average.of[name], value), (number, name)
        batch = make_batch(4)
        for step in steps:
            step([copy.deepcopy(batch)], 1e-2)
    assert recorded.average.updates == plain.average.updates == 3


def test_the_model_has_the_average_for_a_while():
    """What is not trained, such as positions, is the model's own."""
    model = tiny_model()
    average = AveragedWeights(model, DECAY)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = [p.data_ptr() for p in model.parameters()]
    for weight in average.of.values():
        weight.normal_(std=0.1)
    other = tiny_model()
    other.load_state_dict(average.state_dict())
    assert "pos_embed" not in average.of and torch.equal(other.pos_embed, model.pos_embed)
    with pytest.raises(KeyError), average.in_place() as averaged:
        assert averaged is model and predict_alike(averaged, other)
        raise KeyError
    assert [p.data_ptr() for p in model.parameters()] == addresses
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_running_statistics_are_the_models_own():
    norm = nn.BatchNorm1d(3)
    average = AveragedWeights(norm, DECAY)
    norm(torch.rand(4, 3) + 5)
    saved = average.state_dict()
    assert torch.equal(saved["running_mean"], norm.running_mean) and saved.keys() == (
        norm.state_dict().keys()
    )


def test_a_resumed_average_is_the_uninterrupted_one(tmp_path):
    whole, stopped = averaging(tmp_path), averaging(tmp_path, save_steps=1)
    whole.run()
    expected = load_checkpoint(tmp_path / LAST)
    stopped.throttle.wait = lambda: setattr(stopped, "asked_to_stop", stopped.update == 4)
    stopped.run()
    rest = averaging(tmp_path)
    rest.load_state_dict(load_checkpoint(tmp_path / LAST), tmp_path / LAST)
    assert rest.step.average.updates == 5
    rest.run()
    content = load_checkpoint(tmp_path / LAST)
    assert all(torch.equal(content[EMA][name], value) for name, value in expected[EMA].items())
    assert content[EMA_UPDATES] == expected[EMA_UPDATES] == 18


def test_a_run_without_an_average_starts_one_and_drops_another(tmp_path, caplog, heard):
    first = averaging(tmp_path, epochs=1)
    first.run()
    content = load_checkpoint(tmp_path / LAST)
    without = {name: value for name, value in content.items() if name not in (EMA, EMA_UPDATES)}
    run = averaging(tmp_path)
    run.load_state_dict(without, tmp_path / LAST)
    assert run.step.average.updates == 0
    assert torch.equal(run.step.average.of["weight"], without["model"]["weight"])
    assert "--model_ema: the checkpoint has no average, it starts from its weights" in caplog.text
    caplog.clear()
    run = trainer(tmp_path)
    run.load_state_dict(content, tmp_path / LAST)
    assert "the checkpoint's average is dropped: --model_ema continues it" in caplog.text
    assert EMA not in run.state_dict()


def test_files_give_the_trained_weights_unless_asked(tmp_path, caplog, heard):
    """And say that there is an average."""
    trained, averaged = tiny_model(), tiny_model()
    path = save_run(tmp_path / "run", trained)
    save_checkpoint(path, {**load_checkpoint(path), EMA: averaged.state_dict(), EMA_UPDATES: 9})
    for flags, use_ema, expected in (([], False, trained), (["--use_ema"], True, averaged)):
        caplog.clear()
        assert predict_alike(load_model(path, use_ema=use_ema), expected)
        also = "also in the file: model_ema, an average, which use_ema=True uses"
        assert (also in caplog.text) is not use_ema
        out = tmp_path / f"{use_ema}.pth"
        assert cli.export([str(path), str(out), "--to", "fastimae", *flags]) == 0
        assert predict_alike(load_model(out), expected)
        assert EMA not in load_checkpoint(out)


def test_a_weight_with_two_names_is_averaged_under_both():
    module = nn.ModuleDict({"one": nn.Linear(2, 2), "two": nn.Linear(2, 2)})
    module["two"].weight = module["one"].weight
    average = AveragedWeights(module, DECAY)
    average.of["one.weight"] += 1
    saved = average.state_dict()
    assert saved.keys() == module.state_dict().keys()
    assert torch.equal(saved["two.weight"], module["one"].weight + 1)


def test_the_average_of_the_run_comes_before_that_of_an_objective():
    """C-MAE's target, which is one of its training."""
    weights = {name: {"patch_embed.proj.weight": torch.ones(1)} for name in ("model", EMA)}
    target = {"target.student.patch_embed.proj.weight": torch.zeros(1)}
    found = find_weights({"objective": target, **weights}, averaged=True)
    assert found.location.entry == EMA and len(found.others) == 2


def test_the_decay_is_within_0_and_1(capsys):
    flags = ["--synthetic", "--print_config", "--model_ema"]
    assert cli.train([*flags, "0.9999"]) == 0
    assert "model_ema: 0.9999" in capsys.readouterr().out
    assert cli.train([*flags, "1"]) != 0
    assert "--model_ema must be between 0 and 1, not 1" in capsys.readouterr().err
