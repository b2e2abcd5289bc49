"""The proof on CIFAR-10: its commands are understood, and none is run twice."""

import json
import shlex
import subprocess

import pytest

from benchmarks import cifar10
from fastimae.arguments import parse, parse_training
from fastimae.config import flatten
from fastimae.evaluate.command import TASKS


@pytest.fixture
def flags(tmp_path):
    return shlex.split(
        f"--ffcv a.beton --val b.beton --runs {tmp_path} --out {tmp_path / 'out.json'} --epochs 3 "
        "--ratios 0.5 --finetune 2 --flags '--batch_size 64'"
    )


def test_the_commands_are_understood(flags):
    options = cifar10.parser().parse_args(flags)
    trainings = {run.name: run for run in cifar10.trainings(options)}
    settings = {
        name: flatten(parse_training("fastimae-train", run.arguments))
        for name, run in trainings.items()
    }
    assert list(settings) == ["mae", "imae", "imae_distilled", "imae_r0.5"]
    assert all((s["epochs"], s["batch_size"]) == (3, 64) for s in settings.values())
    assert all(s["warmup_epochs"] == 0.3 for s in settings.values())
    teacher = str(options.runs / "mae" / "checkpoint-last.pth")
    assert [s["teacher"] for s in settings.values()] == [None, None, teacher, teacher]
    assert settings["imae_r0.5"]["same_class_ratio"] == 0.5
    for run in cifar10.evaluations(options):
        task, *rest = run.arguments
        assert parse("fastimae-eval", TASKS[task].options, rest).output_dir == run.result.parent


def test_others_are_trained_too_and_compared_by_cka(flags):
    more = ["--also", "no_pix=--objective mae --no_norm_pix_loss", "--cka", "0.5", "0.9"]
    options = cifar10.parser().parse_args([*flags, *more])
    *_, last = cifar10.trainings(options)
    assert last.name == "no_pix"
    settings = flatten(parse_training("fastimae-train", last.arguments))
    assert (settings["objective"], settings["norm_pix_loss"]) == ("mae", False)
    *_, cka = cifar10.evaluations(options)
    others = cka.arguments[cka.arguments.index("--others") + 1 :][:2]
    assert others == [
        str(options.runs / name / "checkpoint-last.pth") for name in ("imae", "no_pix")
    ]
    ratios = cka.arguments[cka.arguments.index("--mask_ratios") + 1 :][:2]
    assert ratios == ["0.5", "0.9"]
    with pytest.raises(SystemExit):
        cifar10.parser().parse_args([*flags, "--also", "rmae"])


def test_imae_can_be_left_out(flags):
    more = ["--no_imae", "--also", "rmae=--objective rmae", "--cka", "0.5"]
    options = cifar10.parser().parse_args([*flags, *more])
    assert [run.name for run in cifar10.trainings(options)] == ["mae", "rmae"]
    evaluations = {run.name.partition(" ")[0]: run for run in cifar10.evaluations(options)}
    assert list(evaluations) == ["mae", "rmae", "random", "cka"]
    assert not [word for word in evaluations["cka"].arguments if "imae" in word.split("/")]
    assert cifar10.separability(options) == []


def test_cka_is_a_row_for_each_model():
    means = [
        {"model": name, "mask_ratio": ratio, "cka": value}
        for name, values in {"mae": (0.9, 0.8), "random": (0.95, 0.7)}.items()
        for ratio, value in zip((0.5, 0.9), values, strict=True)
    ]
    shown = cifar10.cka_table(means)
    assert "| CKA, mean of layers | 0.5 | 0.9 |" in shown and "| mae | 0.900 | 0.800 |" in shown


def test_what_is_finished_is_not_run_again(flags, monkeypatch, tmp_path):
    started = []
    monkeypatch.setenv("RANK", "0")

    def run(command, check, env):
        started.append(command)
        assert "RANK" not in env  # a launcher's, of whoever started this
        (done,) = [r for r in everything if [*r.arguments] == command[3:]]
        done.result.parent.mkdir(exist_ok=True, parents=True)
        rows = [
            {"model": "m", "mix_ratio": 0.1, "measured": "held out", "mse_before": 0.3,
             "mse_after": 0.1, "mse_after_trained": 0.11}
        ]  # fmt: skip
        done.result.write_text(json.dumps({"numbers": {"acc1": len(started), "table": rows}}))
        lines = [{"epoch": e, "train_loss": 1 / (e + 1), "img_per_s": 9} for e in range(3)]
        log = done.result.parent / "log.txt"
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))

    options = cifar10.parser().parse_args(flags)
    everything = [*cifar10.trainings(options), *cifar10.evaluations(options)]
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("benchmarks.harness.conditions", lambda *_: {"commit": "x"})
    for _ in range(2):
        assert cifar10.main(flags) == 0
    assert len(started) == len(everything) == 4 + 5 * 3 + 1
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"] for row in report["results"]][-1] == "random"
    assert report["results"][0] == {"model": "mae", "linear": 5, "knn": 6, "finetune": 7}
    assert report["separability"][0]["mse_after"] == 0.1
    assert "| M_ls, MSE | 0.1 |\n| --- | --- |\n| m | 0.3 → 0.1 |" in cifar10.markdown(report)
    old = {"model": "m", "mix_ratio": 0.1, "before": 63.0, "after_closed_form": 41.0}
    assert "| M_ls, sum over the width | 0.1 |" in cifar10.markdown(
        {"results": [], "separability": [old]}
    )
    assert report["curves"]["imae"][2] == {"epoch": 2, "train_loss": pytest.approx(1 / 3, 1e-4)}
