"""M_sem, and the study over same-class ratios: its runs, its commands, its table."""

import json
import os
import shlex
import signal
import threading
import time

import numpy as np
import pytest
import torch
from tiny import save_run, tiny_model

pytest.importorskip("sklearn")

from fastimae.arguments import parse, parse_training
from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.evaluate import study_runs
from fastimae.evaluate.candidates import load_candidates
from fastimae.evaluate.command import TASKS
from fastimae.evaluate.images import open_images
from fastimae.evaluate.mixing.mixtures import PairBatches, mixture_latents
from fastimae.evaluate.origin import weights_digest
from fastimae.evaluate.study_runs import StudyRun, run_once
from fastimae.evaluate.tasks import msem, semantics
from fastimae.evaluate.tasks.msem import Labelled, MsemOptions, accuracy
from fastimae.evaluate.tasks.semantics import SemanticsOptions
from fastimae.settings import ConfigError

CPU = torch.device("cpu")


def labelled(apart, count=150, seed=0):
    """Three classes whose centres are `apart`, with scales that differ by dimension."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    features = rng.standard_normal((count, 5)) + apart * np.eye(3, 5)[labels]
    return Labelled((features * [1, 10, 100, 1, 1]).astype(np.float32), labels)


def test_accuracy_of_classes_apart_and_of_noise():
    assert accuracy(labelled(9), labelled(9, seed=1)) == 100
    assert 15 < accuracy(labelled(0), labelled(0, seed=1)) < 55
    test_on = labelled(2, seed=1)
    right = accuracy(labelled(2), test_on) * 150 / 100
    assert right == pytest.approx(round(right)) and 90 < right < 150
    with pytest.raises(ConfigError, match="two classes"):
        accuracy(Labelled(np.ones((4, 2), np.float32), np.zeros(4, int)), labelled(1))


def test_features_come_with_the_class_of_the_image_they_are_for(tmp_path, image_folder):
    options = MsemOptions(
        checkpoint=save_run(tmp_path / "imae", tiny_model(heads=2)),
        others=(save_run(tmp_path / "mae", tiny_model()),),
        data_path=image_folder, mix_ratios=(0.2,), batch_size=8, num_workers=0,
    )  # fmt: skip
    candidates = load_candidates((options.checkpoint, *options.others), CPU)
    found = msem.collect(options, candidates, open_images(image_folder), 20)
    images = list(
        PairBatches(
            open_images(image_folder), candidates[0].model, samples=20, batch_size=8, workers=0
        )
    )
    own = torch.cat([batch.labels for batch in images])
    partners = torch.cat([batch.labels[batch.partner] for batch in images])
    assert torch.equal(torch.from_numpy(found[0, 0.2, "subordinate"].labels), own)
    assert torch.equal(torch.from_numpy(found[0, 0.2, "dominant"].labels), partners)
    first = images[0]
    everything = first.mask(candidates[0].model, 0, 1)
    heads = mixture_latents(candidates[0].model, first, everything, 0.2)
    for number, branch in enumerate(("subordinate", "dominant")):
        wanted = heads[number, :, 1:].mean(1)
        got = torch.from_numpy(found[0, 0.2, branch].features[:8])
        assert torch.allclose(got, wanted, atol=1e-6)
    mae = [found[1, 0.2, branch].features for branch in ("subordinate", "dominant")]
    assert np.array_equal(*mae) and not np.array_equal(mae[0], found[0, 0.2, "dominant"].features)


def test_msem_is_written_and_clearer_for_the_dominant_image(tmp_path, image_folder, capsys):
    options = MsemOptions(
        checkpoint=save_run(tmp_path, tiny_model(heads=2)), data_path=image_folder,
        val=image_folder, mix_ratios=(0.05, 0.2), batch_size=16, num_workers=0, device="cpu",
    )  # fmt: skip
    msem.run(options)
    content = json.loads((tmp_path / "eval-msem" / "results.json").read_text())
    table = content["numbers"]["table"]
    assert content["numbers"]["msem"] == pytest.approx(sum(row["subordinate"] for row in table) / 2)
    assert [row["mix_ratio"] for row in table] == [0.05, 0.2]
    assert table[0]["dominant"] >= table[0]["subordinate"]
    assert "| i-MAE, not distilled | 0.05 |" in capsys.readouterr().out


@pytest.fixture
def program(monkeypatch):
    """Function (code) that replaces what fastimae-train runs by `code`."""

    def set_code(code):
        monkeypatch.setitem(study_runs.PROGRAMS, "fastimae-train", ("-c", code))

    return set_code


WRITES = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); open(p / 'tries', 'a').write('x')\n"
RESULT = "(p / 'results.json').write_text('{}')\n"


def make_run(folder, *flags):
    return StudyRun("a run", folder, ["fastimae-train", str(folder), *flags],
                lambda: (folder / "results.json").is_file())  # fmt: skip


def test_a_run_runs_once(tmp_path, program):
    program(WRITES + RESULT)
    assert run_once(make_run(tmp_path)) and run_once(make_run(tmp_path))
    assert run_once(make_run(tmp_path, "--num_workers", "3"))  # changes no result
    assert (tmp_path / "tries").read_text() == "x"
    with pytest.raises(ConfigError, match="another --output_dir"):
        run_once(make_run(tmp_path, "--epochs", "3"))


def test_a_run_that_failed_or_was_stopped_is_run_again(tmp_path, program):
    program(WRITES + "sys.exit(3)")
    with pytest.raises(ConfigError, match="exit status 3"):
        run_once(make_run(tmp_path))
    program(WRITES + "(p / 'checkpoint-last.pth').write_text('')")
    assert run_once(make_run(tmp_path, "--epochs", "3")) is False  # nothing was kept: other flags
    program(WRITES + RESULT)
    with pytest.raises(ConfigError, match="belongs to another command"):
        run_once(make_run(tmp_path))
    assert run_once(make_run(tmp_path, "--epochs", "3"))
    assert (tmp_path / "tries").read_text() == "xxx"


SAVES_WHEN_TOLD = (
    "import pathlib, signal, sys, time; p = pathlib.Path(sys.argv[1])\n"
    "def save(*_): (p / 'saved').write_text('x'); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save); (p / 'ready').write_text('x'); time.sleep(60)"
)


def test_sigterm_lets_the_command_save(tmp_path, program):
    program(SAVES_WHEN_TOLD)
    before = signal.getsignal(signal.SIGTERM)

    def tell_us():
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell_us, daemon=True).start()
    assert run_once(make_run(tmp_path)) is False
    assert (tmp_path / "saved").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Options of a study, and the list of its commands, which only leave their results."""
    done = []

    def fake_call(command):
        done.append(list(command))
        program, *flags = command
        if program == "fastimae-train":
            config = parse_training(program, flags)
            folder = config.run.output_dir
            ratio = config.objective.same_class_ratio
            save_run(folder, tiny_model(heads=2), epochs=config.optim.epochs)
            lines = [{"epoch": n, "same_class_ratio": ratio} for n in range(config.optim.epochs)]
            (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
            return 0
        task, *flags = flags
        options = parse(program, semantics_options(task), flags)
        place = options.folder(task)
        number = {"acc1": 50.0 + len(done), "msem": 10.0 + len(done)}
        (place / "results.json").write_text(json.dumps({"task": task, "numbers": number}))
        return 0

    monkeypatch.setattr(study_runs, "call", fake_call)
    (tmp_path / "b.beton").touch()
    options = SemanticsOptions(
        train_flags=("--model", "mae_vit_nano_patch8", "--epochs", "3", "--input_size", "32"),
        ratios=(0.0, 1.0), checkpoint=save_run(tmp_path / "mae", tiny_model()),
        ffcv=tmp_path / "a.beton", val=tmp_path / "b.beton", output_dir=tmp_path / "study",
        linear_flags="--epochs 7", seed=5,
    )  # fmt: skip
    return options, done


def semantics_options(task):
    return TASKS[task].options


def test_study_fills_its_table_and_repeats_nothing(study, capsys):
    pytest.importorskip("timm")
    options, done = study
    semantics.run(options)
    heads = [shlex.join(command[:2]).split(" -")[0] for command in done]
    probes = ["fastimae-eval linear", "fastimae-eval finetune", "fastimae-eval msem"]
    assert heads == [*probes, *(["fastimae-train", *probes] * 2)]
    table = json.loads((options.output_dir / "results.json").read_text())["numbers"]["table"]
    keys = ("model", "same_class_ratio", "realised", "linear", "finetune", "msem")
    assert [tuple(row[key] for key in keys) for row in table] == [
        ("baseline", None, None, 51, 52, 13),
        ("r0", 0, 0, 55, 56, 17),
        ("r1", 1, 1, 59, 60, 21),
    ]
    assert (options.output_dir / "semantics.md").read_text().strip() in capsys.readouterr().out
    assert (options.output_dir / "semantics.png").stat().st_size > 5000
    semantics.run(options)
    assert len(done) == 11
    (options.output_dir / "r1" / "eval-msem" / "results.json").unlink()
    semantics.run(options)
    assert len(done) == 12 and done[-1][1] == "msem"


def test_numbers_of_other_weights_are_not_kept(study):
    """The checkpoint of the baseline may be trained further, under the same name."""
    options, done = study
    options.tasks = ("msem",)
    semantics.run(options)
    file = options.output_dir / "baseline" / "eval-msem" / "results.json"
    weights = load_checkpoint(options.checkpoint)["model"]
    content = json.loads(file.read_text()) | {"weights": weights_digest(weights), "epoch": 0}
    file.write_text(json.dumps(content))
    semantics.run(options)
    save_run(options.checkpoint.parent, tiny_model())
    with pytest.raises(CheckpointError, match="eval-msem has results of other weights"):
        semantics.run(options)
    assert len(done) == 5


def test_a_folder_that_the_study_did_not_make_is_not_resumed(tmp_path, program):
    program(WRITES + RESULT)
    save_run(tmp_path, tiny_model())
    with pytest.raises(ConfigError, match="another command"):
        run_once(make_run(tmp_path))
    assert not (tmp_path / "tries").exists()


def test_study_stops_where_a_command_was_stopped(study, monkeypatch):
    options, done = study
    options.tasks = ("msem",)
    monkeypatch.setattr(study_runs, "call", lambda command: done.append(command) or 0)
    semantics.run(options)
    assert len(done) == 1
    table = json.loads((options.output_dir / "results.json").read_text())["numbers"]["table"]
    assert all(row["msem"] is None for row in table)


def test_commands_of_the_study_are_those_of_the_options(study):
    options, _ = study
    train = semantics.train_command(options, 0.5, options.output_dir / "r0.5")
    config = parse_training("fastimae-train", train[1:])
    assert config.objective.objective == "imae" and config.objective.same_class_ratio == 0.5
    assert config.run.resume == "auto" and config.run.seed == 5 and config.optim.epochs == 3
    assert config.data.ffcv == options.ffcv
    pytest.importorskip("timm")
    linear = semantics.evaluate_command(
        options, "linear", options.checkpoint, options.output_dir / "x"
    )
    parsed = parse("fastimae-eval", semantics_options("linear"), linear[2:])
    assert parsed.epochs == 7 and parsed.val == options.val and parsed.resume == "auto"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ratios": (1.5,)}, "--ratios"),
        ({"ffcv": None}, "--ffcv FILE.beton or as --data_path"),
        ({"train_flags": ("--same-class-ratio", "1")}, "--same_class_ratio after --"),
        ({"train_flags": ("--output_dir=x",)}, "--output_dir after --"),
    ],
)
def test_what_the_study_sets_itself_is_refused(study, changes, words):
    options, done = study
    for name, value in changes.items():
        setattr(options, name, value)
    with pytest.raises(ConfigError, match=words):
        semantics.run(options)
    assert not done
