"""The speedrun: what its rules refuse, what its ledger says, and one run from flags to record."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml

from benchmarks.conditions import ROOT
from benchmarks.speedrun import __main__ as speedrun
from benchmarks.speedrun import entry as entries
from benchmarks.speedrun import ledger, rules, run
from fastimae import cli
from fastimae.settings import ConfigError
from tests.toy_images import save_colours

SETTINGS = {"model": "mae_vit_nano_patch8", "input_size": [32], "epochs": 2, "warmup_epochs": 0}


def make_entry(folder, **settings):
    """Write an entry's folder, with these settings beside `SETTINGS`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"title": "T", "by": "B", "settings": SETTINGS | settings}
    (folder / entries.FILE).write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"init": "mae.pth"}, "init: training begins with fresh weights"),
        ({"objective": "imae", "teacher": "mae.pth"}, "teacher: training begins with fresh"),
        ({"objective": "imae", "same-class-ratio": 0.5}, "same_class_ratio: it needs labels"),
        ({"objective": "imae", "same_class_ratio": 1, "pseudo_labels": "l.pt"}, "pseudo_labels"),
        ({"data_path": "photos"}, "data_path: images are CIFAR-10's"),
        ({"seed": 3}, "seed: the run sets it"),
        ({"images": 10, "images_from": "one_per_class"}, "images_from: it needs labels"),
        ({"epoch": 3}, "there is no setting called epoch"),
        ({"model": "mae_vit_small_patch4"}, "has 21,"),
        ({"input_size": [64]}, "training ends with 32 pixels"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_named(tmp_path, settings, why):
    folder = make_entry(tmp_path / "mine", **settings)
    with pytest.raises(ConfigError, match=f"mine/entry.yaml: .*{why}"):
        entries.read_entry(folder)


def test_what_is_run_is_in_the_folder(tmp_path):
    """Its digests are in the record: an objective elsewhere would have none, nor would data."""
    mine = make_entry(tmp_path / "mine", objective="../other.py:Own")
    (tmp_path / "other.py").write_text("from fastimae.objectives.mae import MAE as Own\n")
    with pytest.raises(ConfigError, match=r"objective \.\./other\.py:Own: its file is in"):
        entries.read_entry(mine)
    (make_entry(mine) / "labels.npy").touch()
    with pytest.raises(ConfigError, match=r"labels\.npy: an entry has no such file"):
        entries.read_entry(mine)


def test_every_vit_tiny_is_allowed_and_nothing_larger(tmp_path):
    for patch in (4, 16):
        entries.read_entry(make_entry(tmp_path / "mine", model=f"mae_vit_tiny_patch{patch}"))
    assert not list(rules.too_large(rules.LARGEST_ENCODER))
    assert list(rules.too_large(rules.LARGEST_ENCODER + 1))


def test_refused_settings_exist():
    """A flag that is renamed must not slip through."""
    flags = set((ROOT / "tests" / "cli_flags.txt").read_text().split())
    assert rules.REFUSED.keys() - flags == {"teacher_path", "same_prob"}  # other names of two


def record(seconds, accuracies, seeds=rules.SEEDS, **other):
    """Make up a record."""
    runs = [
        {"seed": seed, "seconds": seconds, "acc1": acc1, "encoder_parameters": 10,
         "train_images": 50_000, "val_images": 10_000, "epochs": 2, "loss": 0.5}
        for seed, acc1 in zip(seeds, accuracies, strict=False)
    ]  # fmt: skip
    facts = {"complete": True, "judge": rules.JUDGE, "date": "2026-11-29T10", "device": "a CPU"}
    return facts | run.means(runs) | {"runs": runs} | other


def recorded(folder, made):
    """Write an entry with a made-up record, and its logs."""
    entry = entries.read_entry(make_entry(folder))
    made["files"] = made.get("files", entry.digests())
    entry.record_file("cpu").write_text(json.dumps(made))
    for one in made["runs"]:
        entry.log_file("cpu", one["seed"]).write_text('{"epoch": 1, "train_loss": 0.5}\n')
    return entry


def test_the_fastest_that_reach_the_target_come_first(tmp_path):
    good, target = [90.0] * 3, rules.TRACKS["cpu"].target
    made = {
        "slow": record(300, [target - 2, target, target + 2]),
        "quick": record(100, good),
        "misses": record(10, [target - 0.5] * 3),
        "one_seed": record(5, good[:1]),
    }
    found = [recorded(tmp_path / name, one) for name, one in made.items()]
    page = ledger.page_with(found, f"a\n{ledger.BEGIN} old {ledger.END}\nb")
    lines = [line for line in page.splitlines() if line.startswith("| [")]
    names = [line.split("]")[0].removeprefix("| [") for line in lines]
    assert names == ["quick", "slow", "one_seed", "misses"]
    assert ["not reached" in line for line in lines] == [False, False, True, True]
    assert page.startswith("a\n") and page.endswith("\nb") and " old " not in page
    assert ledger.page_with(found, page) == page
    assert not [line for entry in found for line in ledger.problems(entry, "cpu")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"complete": False}, "did not end"),
        ({"files": {"entry.yaml": "0"}}, "not what was run"),
        ({"judge": {**rules.JUDGE, "epochs": 900}}, "another probe"),
        ({"mean_acc1": 99.0}, "means are not those"),
    ],
)
def test_a_record_that_does_not_agree_with_itself_is_named(tmp_path, change, why):
    (line,) = ledger.problems(recorded(tmp_path / "mine", record(9, [60, 61, 62], **change)), "cpu")
    assert why in line


@pytest.mark.parametrize(
    ("of_run", "why"),
    [
        ({"encoder_parameters": 6_000_000}, "6,000,000 parameters"),
        ({"train_images": 60_000}, "60000 and 10000 images"),
        ({"loss": 0.4}, "log_cpu_seed0.txt has another end"),
    ],
)
def test_a_run_that_breaks_a_rule_is_named(tmp_path, of_run, why):
    made = record(9, [60, 61, 62])
    made["runs"][0] |= of_run
    (line,) = ledger.problems(recorded(tmp_path / "mine", made), "cpu")
    assert line.startswith("seed 0: ") and why in line


def test_the_page_states_the_rules_that_are_checked():
    words = " ".join(ledger.PAGE.read_text().split())
    assert " ".join(f"--{name} {value}" for name, value in rules.JUDGE.items()) in words
    assert f"{rules.LARGEST_ENCODER:,} trained parameters" in words
    assert f"seeds {', '.join(map(str, rules.SEEDS[:-1]))} and {rules.SEEDS[-1]}" in words


def test_the_committed_entries_and_ledger_are_as_the_rules_want_them(capsys):
    assert speedrun.main(["check"]) == 0, capsys.readouterr().out


def test_a_run_trains_judges_and_writes_a_record(tmp_path, monkeypatch, capsys):
    """All of it in this process, on 30 small images, with an objective of its own."""
    folder = make_entry(
        tmp_path / "mine", objective="own.py:Own", epochs=1, epoch_samples=16, batch_size=16
    )
    (folder / "own.py").write_text("from fastimae.objectives.mae import MAE as Own\n")
    images = tmp_path / "images.beton"
    assert cli.convert([str(save_colours(tmp_path / "colours", 10)), str(images)]) == 0
    monkeypatch.setattr(speedrun, "ENTRIES", tmp_path)
    monkeypatch.setattr(
        run, "JUDGE", rules.JUDGE | {"epochs": 1, "warmup_epochs": 0, "batch_size": 16}
    )
    monkeypatch.setattr(speedrun, "use_cores", lambda: None)
    labels = []

    def in_process(function, arguments, place, _):
        with contextlib.chdir(place):
            assert getattr(cli, function)(arguments) == 0
        labels.append("none" in arguments)

    monkeypatch.setattr(run, "command", in_process)
    data = ["--ffcv", str(images), "--val", str(images)]
    words = ["run", "mine", *data, "--seeds", "1"]
    assert speedrun.main(words) == 2
    assert "--ffcv" in (error := capsys.readouterr().err) and "30 images, and not 50000" in error
    monkeypatch.setattr(run, "TRAIN_IMAGES", 30)
    monkeypatch.setattr(run, "VAL_IMAGES", (30,))
    assert speedrun.main(words) == 0
    assert labels == [True, False]  # training has none, the judge does
    entry = entries.read_entry(folder)
    made = entry.record("cpu")
    assert str(tmp_path) not in json.dumps(made) and "/" not in made["command"]
    (one,) = made["runs"]
    assert one["seed"] == 1 and one["seconds"] > 0 and one["train_images"] == 30
    assert one["encoder_parameters"] == rules.encoder_parameters(
        rules.create_model(SETTINGS["model"], img_size=32)
    )
    wrong = list(ledger.problems(entry, "cpu"))
    assert len(wrong) == 2, wrong  # another judge, and too few images
    assert Path(entry.log_file("cpu", 1)).read_text().count("\n") == 1


def test_an_unknown_entry_is_one_line(capsys):
    assert speedrun.main(["run", "nobodys", "--ffcv", "a.beton", "--val", "b.beton"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no entry nobodys: there is no entry.yaml in " in line


def test_the_gpu_track_needs_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["run", "published", "--ffcv", "a.beton", "--val", "b.beton", "--track", "gpu"]
    assert speedrun.main(words) == 2
    assert "--track gpu needs a GPU" in capsys.readouterr().err


def test_a_child_finds_this_checkout_and_no_old_caches(tmp_path):
    env = run.environment(tmp_path)
    assert env["PYTHONPATH"].split(":")[0] == str(ROOT)
    assert Path(env["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(tmp_path)
