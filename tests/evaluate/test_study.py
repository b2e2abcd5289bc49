"""The study: its runs in order, their commands, its table and plot, and how it goes on."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from tiny import save_run, tiny_model

pytest.importorskip("sklearn")
pytest.importorskip("timm")

from fastimae.arguments import parse, parse_training
from fastimae.cli import evaluate
from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.evaluate.command import TASKS, options_of
from fastimae.evaluate.options.study import StudyOptions
from fastimae.evaluate.origin import weights_digest
from fastimae.evaluate.studies import runs
from fastimae.evaluate.tasks import study as task
from fastimae.folders import FolderError
from fastimae.loaders.errors import DataError
from fastimae.settings import ConfigError

FILE = """\
about: over ratios
train: {model: mae_vit_nano_patch8, input_size: 32, epochs: 3}
models:
  imae:
    objective: imae
    teacher: mae
    grid: {same_class_ratio: [0, 1.0]}
  mae: {objective: mae, norm_pix_loss: true}
  theirs: {checkpoint: theirs/checkpoint-last.pth}
evaluations:
  linear: {epochs: 7}
  near: {task: knn, k: [5, 20], models: [imae, theirs]}
plot: {x: same_class_ratio}
paper:
  conditions: The paper trained for longer.
  numbers: {mae: {linear: 90.5}, imae-1: {linear: 91, near: 80}}
"""
NAMES = ["mae", "imae-0", "imae-0/linear", "imae-0/near", "imae-1", "imae-1/linear", "imae-1/near",
         "mae/linear", "theirs/linear", "theirs/near"]  # fmt: skip


def leave_results(command, number):
    """Leave what a command would: a model that is trained, or a number."""
    program, *flags = command
    if program == "fastimae-train":
        config = parse_training(program, flags)
        ratio = getattr(config.objective, "same_class_ratio", None)
        epochs = config.optim.epochs
        save_run(config.run.output_dir, tiny_model(), epoch=epochs - 1, epochs=epochs)
        realised = {} if ratio is None else {"same_class_ratio": ratio * 0.9}
        lines = [json.dumps({"epoch": n, **realised}) + "\n" for n in range(epochs)]
        (config.run.output_dir / "log.txt").write_text("".join(lines))
        return
    name, *flags = flags
    place = parse(program, TASKS[name].options, flags).folder(name)
    (place / "results.json").write_text(json.dumps({"task": name, "numbers": {"acc1": number}}))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Be in a folder with a study's file, images, and a model that is there already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.yaml").write_text(FILE)
    for name in ("a.beton", "b.beton"):
        (tmp_path / name).touch()
    save_run(tmp_path / "theirs", tiny_model())
    return tmp_path


@pytest.fixture(autouse=True)
def sketch(monkeypatch, request):
    """Leave out the plot, which takes most of the time, but for the test that looks at it."""
    if "fills" not in request.node.name:
        monkeypatch.setattr(task, "draw", lambda *args: args[-1].write_bytes(b""))


@pytest.fixture
def done(monkeypatch):
    """The commands that a study has run; each leaves its result at once, the n-th 10 + n."""
    commands = []

    def fake_call(command):
        commands.append(list(command))
        leave_results(command, 10.0 + len(commands))
        return 0

    monkeypatch.setattr(runs, "call", fake_call)
    return commands


def call(*words):
    """Run the study with words of its command line, as the command does."""
    line = ["few.yaml", "--ffcv", "a.beton", "--val", "b.beton", "--device", "cpu", *words]
    task.run(options_of("study", line))


def names_of(commands):
    """Return the names of the folders that commands write to."""
    outs = [command[command.index("--output_dir") + 1] for command in commands]
    return [out.removeprefix("study/").replace("/eval-", "/") for out in outs]


def results():
    return json.loads(Path("study/results.json").read_text())


def test_a_study_fills_its_table_and_repeats_nothing(place, done, capsys):
    call()
    assert names_of(done) == NAMES
    table = results()["numbers"]["table"]
    keys = ("model", "same_class_ratio", "same_class_ratio, realised", "linear", "linear, paper",
            "near", "near, paper")  # fmt: skip
    assert all(tuple(row) == keys for row in table)
    number = dict(zip(NAMES, range(11, 21), strict=True))
    assert [tuple(row.values()) for row in table] == [
        ("imae-0", 0, 0, number["imae-0/linear"], None, number["imae-0/near"], None),
        ("imae-1", 1, 0.9, number["imae-1/linear"], 91, number["imae-1/near"], 80),
        ("mae", None, None, number["mae/linear"], 90.5, None, None),
        ("theirs", None, None, number["theirs/linear"], None, number["theirs/near"], None),
    ]
    shown = capsys.readouterr().out
    assert (place / "study/study.md").read_text() == shown
    assert "over ratios" in shown and "The paper trained for longer." in shown
    assert "--epochs 3" in shown and "near (knn) --k 5 20" in shown and "a.beton" in shown
    assert (place / "study/study.png").stat().st_size > 5000
    assert results()["pictures"] == ["study.png"] and results()["settings"]["study"] == "few.yaml"
    assert yaml.safe_load((place / "study/study.yaml").read_text()) == yaml.safe_load(FILE)
    call()
    assert len(done) == 10
    (place / "study/imae-1/eval-near/results.json").unlink()
    call()
    assert names_of(done[10:]) == ["imae-1/near"]
    assert results()["numbers"]["table"][1]["near"] == 21


COMMANDS = """
fastimae-train --ffcv a.beton --device cpu --num_workers 2 --seed 5 --model mae_vit_nano_patch8
    --input_size 32 --epochs 3 --objective mae --norm_pix_loss --output_dir study/mae --resume auto
fastimae-train --ffcv a.beton --device cpu --num_workers 2 --seed 5 --model mae_vit_nano_patch8
    --input_size 32 --epochs 3 --objective imae --teacher study/mae/checkpoint-last.pth
    --same_class_ratio 1.0 --output_dir study/imae-1 --resume auto
fastimae-eval linear --checkpoint study/imae-1/checkpoint-last.pth --ffcv a.beton --device cpu
    --num_workers 2 --seed 5 --val b.beton --output_dir study/imae-1/eval-linear
    --feature_dir study/imae-1/eval-features --resume auto --epochs 7
fastimae-eval knn --checkpoint theirs/checkpoint-last.pth --ffcv a.beton --device cpu
    --num_workers 2 --seed 5 --val b.beton --output_dir study/theirs/eval-near
    --feature_dir study/theirs/eval-features --k 5 20
"""


def test_the_commands_are_those_that_one_would_type(place, done, capsys):
    flags = ("--num_workers", "2", "--seed", "5")
    call(*flags)
    wanted = [line.split() for line in COMMANDS.replace("\n    ", " ").strip().splitlines()]
    ran = dict(zip(names_of(done), done, strict=True))
    for command in wanted:
        (name,) = names_of([command])
        assert ran[name] == command
        note = json.loads(
            (place / command[command.index("--output_dir") + 1] / "command.json").read_text()
        )
        assert note == command  # fmt: skip
    capsys.readouterr()
    call(*flags, "--dry_run")
    listed = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[2:] for line in listed[:-1]] == done
    assert all(line.startswith("done ") for line in listed[:-1])
    assert listed[-1] == "10 of 10 are done"


def test_a_dry_run_says_what_is_missing_and_leaves_nothing(place, done, capsys):
    call("--dry_run")
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in listed[:-1]] == [["missing", name] for name in NAMES]
    assert listed[-1] == "0 of 10 are done" and done == []
    assert not (place / "study").exists()
    call("--only", "imae-0/linear")
    (place / "study/imae-0/log.txt").write_text('{"epoch": 0}\n')
    (place / "study/imae-0/eval-linear/results.json").unlink()
    capsys.readouterr()
    call("--dry_run", "--only", "imae-0", "mae")
    listed = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[:-1]]
    assert listed == [["done", "mae"], ["begun", "imae-0"], ["missing", "imae-0/linear"],
                      ["missing", "imae-0/near"], ["missing", "mae/linear"]]  # fmt: skip
    with pytest.raises(ConfigError, match="study/mae belongs to another command"):
        call("--dry_run", "--", "--epochs", "4")


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        (["imae-1/near"], ["mae", "imae-1", "imae-1/near"]),
        (["theirs"], ["theirs/linear", "theirs/near"]),
        (["imae"], NAMES[:7]),
        (["imae-*"], NAMES[:7]),
        (["*/near", "mae"], [name for name in NAMES if name not in
                             ("imae-0/linear", "imae-1/linear", "theirs/linear")]),
    ],
)  # fmt: skip
def test_only_some(place, capsys, patterns, wanted):
    call("--dry_run", "--only", *patterns)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]] == wanted


def test_a_pattern_of_nothing(place, done):
    with pytest.raises(ConfigError, match=r"--only imae-2: .* did you mean imae-"):
        call("--only", "mae", "imae-2")
    assert done == []


def test_flags_of_the_command_line(place, done):
    call("--set", "evaluations.linear.epochs=9", "models.imae.grid.same_class_ratio=[0.5]",
         "--only", "imae",
         "--", "--epochs=2", "--no_hflip", "--crop_ratio", "0.9", "1.5")  # fmt: skip
    assert names_of(done) == ["mae", "imae-0.5", "imae-0.5/linear", "imae-0.5/near"]
    for command in done[:2]:
        config = parse_training("fastimae-train", command[1:])
        assert (config.optim.epochs, config.data.hflip) == (2, False)
        assert config.data.crop_ratio == (0.9, 1.5)
        assert config.model.model == "mae_vit_nano_patch8"
    assert done[2][-2:] == ["--epochs", "9"]
    with pytest.raises(ConfigError, match="study/mae belongs to another command"):
        call()
    assert len(done) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--", "--output_dir=x"], "--output_dir after --: the study sets that itself"),
        (["--", "--same-prob", "1"], "--same_class_ratio after --: the study sets that itself"),
        (["--", "--no_norm_pix_loss"], "--norm_pix_loss after --.*models.mae.*--set changes it"),
        (["--", "--epochs", "2", "--epochs", "3"], "after --: --epochs is given twice"),
        (["--", "epochs", "2"], "unexpected epochs after --"),
        (["--", "--epoch", "2"], "after --: there is no flag --epoch: did you mean --epochs"),
        (["--", "--recipe", "demmo"], "after --: --recipe demmo is not one of .*mean demo"),
        (["--", "--init", "gone.pth"], "after --: init: there is neither a model nor a file"),
        (["--set", "models.mae.epochs=0"], "--set models.mae.epochs: --epochs must be positive"),
        (["--set", "models.imae.mix_beta=-1"], "--set models.imae.mix_beta: --mix_beta must be"),
        (["--set", "models.imae.teacher=ma"], "models.imae.teacher: teacher: .* called ma: did y"),
        (["--set", "models.mae.mix_beta=2"], "--set models.mae.mix_beta: --mix_beta has no effect"),
        (["--set", "models.mae.init=imae-1"], "mae needs imae-1 needs mae|imae-1 needs mae needs"),
        (["--set", "models.mae.init=mae"], "need each other: mae needs mae"),
        (["--set", "models.mae.init=imae"], "neither a model nor a file called imae"),
        (["--set", "models.theirs.checkpoint=x"], "models.theirs.checkpoint: there is no file x"),
        (["--set", "evaluations.linear.epoch=1"], "--set evaluations.linear.epoch: .*--epochs"),
        (["--set", "evaluations.near.k=none"], "--set evaluations.near.k: --k takes one or more"),
        (["--set", "models.imae.grid.same_class_ratio=[1, 1.0]"], "two models are called imae-1"),
        (["--set", "models.imae.grid.same_class_ratio=[2]"], "grid.same_class_ratio: --same_class"),
        (["--set", "models.mae.objective=ma"], "--set models.mae.objective: --objective ma is not"),
        (["--set", "evaluations.near.models=[ima]"], "models: there is no model ima: did you mean"),
        (["--seed", "1", "1"], "--seed: a seed is given twice"),
        (["--launcher", "no_such_program"], "--launcher no_such_program: there is no such program"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_the_first_run(place, done, words, said):
    with pytest.raises(ConfigError, match=said):
        call(*words)
    assert done == [] and not (place / "study").exists()


def test_the_line_of_the_file_is_named(place, done):
    (place / "few.yaml").write_text(FILE.replace("epochs: 7", "epochs: -7"))
    with pytest.raises(ConfigError, match=r"^few.yaml, line 11: --epochs must be positive, not -7"):
        call()
    assert done == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("few.yaml --val b.beton", "--ffcv FILE.beton or as --data_path FOLDER"),
        ("few.yaml --ffcv a.beton --data_path . --val b.beton", "--ffcv FILE.beton or as"),
        ("few.yaml --ffcv a.beton", "give the images to test on as --val"),
        ("few.yaml --ffcv gone --val b.beton", "--ffcv gone: there is no such file"),
        ("few.yaml --ffcv a.beton --val gone", "--val gone: there is no such file"),
        ("gone.yaml --ffcv a.beton --val b.beton", "gone.yaml: No such file"),
    ],
)
def test_images_and_the_file_are_checked_first(place, done, line, said):
    with pytest.raises((ConfigError, DataError), match=said):
        task.run(options_of("study", line.split()))
    assert done == []


def test_a_missing_library_is_found_first(place, done, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fastimae.evaluate.tasks.knn", None)
    with pytest.raises(Exception, match="knn"):
        call()
    assert done == []


def test_an_unknown_name_lists_the_studies_that_are_there(place, capsys):
    assert evaluate(["study", "imae_table1_cifar", "--ffcv", "a.beton"]) == 2
    out, err = capsys.readouterr()
    *listed, line = err.splitlines()
    assert out == "" and "no file imae_table1_cifar: did you mean imae_table1_cifar10?" in line
    assert any(each.split()[0] == "imae_table2_cifar10" for each in listed)
    assert evaluate(["semantics", "--ratios", "0"]) == 2
    assert "use fastimae-eval study imae_table1_cifar10" in capsys.readouterr().err


def test_numbers_of_other_weights_are_not_kept(place, done):
    """A model that is there already may be trained further, under the same name."""
    call("--only", "theirs/near")
    file = place / "study/theirs/eval-near/results.json"
    weights = load_checkpoint(place / "theirs/checkpoint-last.pth")["model"]
    content = json.loads(file.read_text()) | {"weights": weights_digest(weights), "epoch": 0}
    file.write_text(json.dumps(content))
    call("--only", "theirs/near")
    save_run(place / "theirs", tiny_model())
    with pytest.raises(CheckpointError, match="eval-near has results of other weights"):
        call("--only", "theirs/near")
    assert len(done) == 1


def test_the_study_stops_where_a_command_was_stopped(place, monkeypatch, heard, caplog):
    commands = []
    monkeypatch.setattr(runs, "call", lambda command: commands.append(command) or 0)
    call()
    assert len(commands) == 1 and "stopped in study/mae" in caplog.text
    assert all(row["linear"] is None for row in results()["numbers"]["table"])


def test_a_training_that_was_killed_goes_on(place, done, monkeypatch):
    """The first command leaves one epoch of three; the same study resumes it, and does the rest."""

    def killed(command):
        leave_results(command, 0)
        (place / "study/mae/log.txt").write_text('{"epoch": 0}\n')
        return -9

    with monkeypatch.context() as patch:
        patch.setattr(runs, "call", killed)
        with pytest.raises(ConfigError, match="mae failed with exit status -9"):
            call()
    call()
    assert names_of(done) == NAMES


def test_a_training_that_was_killed_as_it_saved_goes_on(place, done, monkeypatch):
    """The log has the last epoch, the checkpoint has not."""

    def killed(command):
        leave_results(command, 0)
        save_run(place / "study/mae", tiny_model(), epoch=1, epochs=3)
        return -9

    with monkeypatch.context() as patch:
        patch.setattr(runs, "call", killed)
        with pytest.raises(ConfigError, match="mae failed with exit status -9"):
            call()
    call()
    assert names_of(done) == NAMES


def test_seeds_are_repeated_and_averaged(place, done):
    call("--seed", "3", "1", "--only", "mae", "theirs/linear")
    assert names_of(done) == [
        *("mae", "mae-seed1", "mae/linear", "mae-seed1/linear"),
        *("theirs/linear", "theirs-seed1/linear"),
    ]
    seeds = [command[command.index("--seed") + 1] for command in done]
    assert seeds == ["3", "1", "3", "1", "3", "1"]
    rows = {row["model"]: row for row in results()["numbers"]["table"]}
    assert rows["mae"]["linear"] == 13.5 and rows["mae"]["seeds"] == 2
    assert rows["mae"]["linear, deviation"] == pytest.approx(0.5**0.5)
    assert rows["theirs"]["linear"] == 15.5 and rows["theirs"]["near"] is None
    assert rows["imae-0"]["seeds"] == 0
    call("--seed", "3", "--only", "mae")
    assert len(done) == 6


def test_a_teacher_has_the_seed_and_the_place_of_its_student(place, done):
    (place / "few.yaml").write_text(
        "train: {model: mae_vit_nano_patch8, input_size: 32, epochs: 3}\n"
        "models:\n"
        "  imae: {objective: imae, teacher: mae,\n"
        "    grid: {mask_ratio: [0.5, 0.75], mix_lambda: [0.3]}}\n"
        "  mae: {objective: mae, grid: {mask_ratio: [0.5, 0.75]}}\n"
        "evaluations: {knn: }\n"
    )
    call("--seed", "0", "4", "--only", "imae*")
    teachers = {
        name: command[command.index("--teacher") + 1]
        for name, command in zip(names_of(done), done, strict=True) if "--teacher" in command
    }  # fmt: skip
    assert teachers == {
        f"imae-{ratio}-0.3{seed}": f"study/mae-{ratio}{seed}/checkpoint-last.pth"
        for ratio in ("0.5", "0.75")
        for seed in ("", "-seed4")
    }
    names = names_of(done)
    assert all(
        names.index(teacher.split("/")[1]) < names.index(name) for name, teacher in teachers.items()
    )


def test_an_evaluation_may_need_other_models_and_other_evaluations(place, done):
    (place / "few.yaml").write_text(
        "models:\n"
        "  imae: {objective: imae, model: mae_vit_nano_patch8, input_size: 32, epochs: 1}\n"
        "  mae: {objective: mae, model: mae_vit_nano_patch8, input_size: 32, epochs: 1}\n"
        "evaluations:\n"
        "  separability: {teacher: mae, others: [theirs/checkpoint-last.pth, linear]}\n"
        "  linear:\n"
    )
    call("--only", "imae/separability")
    assert names_of(done) == ["imae", "mae", "imae/linear", "imae/separability"]
    flags = done[-1]
    assert flags[flags.index("--teacher") + 1] == "study/mae/checkpoint-last.pth"
    at = flags.index("--others")
    wanted = ["theirs/checkpoint-last.pth", "study/imae/eval-linear/checkpoint-best.pth"]
    assert flags[at + 1 : at + 3] == wanted


def test_models_may_have_images_of_their_own(place, done):
    (place / "c.beton").touch()
    call("--set", "models.mae.ffcv=c.beton", "evaluations.near.val=c.beton", "--only", "*")
    ran = dict(zip(names_of(done), done, strict=True))
    given = {name: ran[name][ran[name].index("--ffcv") + 1] for name in ("mae", "imae-0")}
    assert given == {"mae": "c.beton", "imae-0": "a.beton"}
    assert ran["imae-0/near"].count("--val") == 1
    assert ran["imae-0/near"][ran["imae-0/near"].index("--val") + 1] == "c.beton"


def test_training_images_are_clustered_beside_evaluations_that_test(place, done):
    call("--set", "evaluations.cluster={k: 5, models: mae}", "--only", "mae")
    ran = dict(zip(names_of(done), done, strict=True))
    assert "--val" not in ran["mae/cluster"] and "--val" in ran["mae/linear"]


def test_a_number_that_a_task_does_not_have(place, done, heard, caplog):
    call("--only", "mae", "--set", "columns={top: linear.acc5}")
    assert "eval-linear has no single number acc5: it has acc1" in caplog.text
    assert [row["top"] for row in results()["numbers"]["table"]] == [None] * 4


def test_what_only_the_paper_has_is_said(place, done, heard, caplog):
    call("--only", "theirs", "--set", "models.imae.grid.same_class_ratio=[0]")
    assert "the study has no imae-1, of which the paper has numbers" in caplog.text


def test_another_tasks_folder_is_left_alone(place, done):
    (place / "study").mkdir()
    (place / "study/results.json").write_text('{"task": "knn", "numbers": {}}')
    with pytest.raises(FolderError, match="study has the results of knn"):
        call()
    assert done == []


def test_a_study_is_repeated_from_its_run_file(place, done):
    call("--only", "mae", "--seed", "2", "--set", "evaluations.linear.epochs=1", "--", "--epochs=2")
    again = options_of("study", ["--config", "study/run.yaml"])
    assert isinstance(again, StudyOptions) and again.train_flags == ("--epochs=2",)
    task.run(again)
    line = "study/study.yaml --ffcv a.beton --val b.beton --device cpu --only mae --seed 2"
    task.run(options_of("study", shlex.split(f"{line} -- --epochs=2")))
    assert len(done) == 2
