"""Where commands write: checked first, one writer at a time, and nothing anywhere else."""

import contextlib
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import torch
from colour_classifiers import palette, save_flat, save_probe_of
from PIL import Image
from shape_scenes import write_coco, write_segmentation
from tiny import save_run, tiny_model
from toy_images import save_gray, save_splits

pytest.importorskip("timm")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")
pytest.importorskip("piq")

from fastimae import cli
from fastimae.config import run_settings
from fastimae.demo import __main__ as demo
from fastimae.engine.checkpoint import LAST, load_checkpoint
from fastimae.engine.run_file import RUN_FILE, read_run_file
from fastimae.evaluate.command import TASKS, options_of
from fastimae.evaluate.origin import weights_digest
from fastimae.evaluate.robustness.classes import categories
from fastimae.loaders import BetonReader
from fastimae.locks import LOCK, file_to_write, folder_to_write
from fastimae.pictures import reconstruction
from fastimae.settings import plain_settings

ROOT = Path(__file__).parents[1]
SMALL = {
    "finetune": "--epochs 1 --batch_size 8 --aa none --mixup 0 --precision fp32",
    "linear": "--epochs 1 --batch_size 8 --save_steps 1",
    "segment": "--epochs 1 --batch_size 8 --input_size 32 --pictures 1",
    "detect": "--epochs 1 --batch_size 2 --input_size 32 --pictures 1 --head_channels 8 "
    "--proposals 8 --precision fp32",
    "separability": "--teacher {mae} --steps 5 --mix_ratios 0.2 --batch_size 8",
    "msem": "--recipe imae_cifar10 --epochs 1 --batch_size 8 --precision fp32",
    "mixtureprobe": "--mix_ratios 0.2 --batch_size 8",
    "reconstruct": "--samples 2 --mask_ratios 0.75 --mix_ratios 0.2 --pictures 1",
    "cka": "--samples 8 --mask_ratios 0.5",
    "attention": "--samples 1 --layers 0",
    "cluster": "--k 2",
    "tsne": "--samples 20 --perplexity 3",
    "robustness": "--classifier {probe} --sets mine={images}/val",
    "shapebias": "--classifier {probe} --data {stimuli}",
}
"""Flags that make a task quick."""
DATA = {
    "segment": "--data_path {scenes}",
    "detect": "--coco {coco}",
    "robustness": "",
    "shapebias": "",
}
"""The flags for images of tasks that take others than most do."""
CLASSES = ["a_red", "b_green", "c_blue", *categories()]
WITHOUT_PICTURES = ("finetune", "msem", "linear", "knn", "fewshot", "features")
OF_CHECKPOINTS = [task for task in TASKS if task not in ("study", "report", "compare")]
TRAIN = (
    "--synthetic --synthetic_samples 16 --model mae_vit_nano_patch16 --input_size 32 "
    "--batch_size 8 --num_workers 0 --device cpu --epochs 1 --warmup_epochs 0"
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Make a folder of a user's data and checkpoints, to copy."""
    root = tmp_path_factory.mktemp("originals")
    save_splits(root / "images", 8)
    write_segmentation(root / "scenes", train=8, val=1, size=32)
    write_coco(root / "coco", train=2, val=1, size=32)
    for name, heads in (("mae", 1), ("imae", 2)):
        model = tiny_model(heads=heads)
        weights = save_run(root / name, model)
        (root / name / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0}\n')
    colours = palette(CLASSES)
    save_probe_of(model, weights, root / "imae" / "probe.pth", CLASSES, colours)
    save_flat(root / "stimuli" / "cat1-dog2.png", colours["cat"])
    return root


def copied(originals, root):
    """Copy the user's data; return flag values by name, with a folder for output."""
    shutil.copytree(originals, root, dirs_exist_ok=True)
    names = {name: root / name for name in ("images", "scenes", "coco", "stimuli", "out")}
    names |= {name: root / name / LAST for name in ("mae", "imae")}
    return names | {"root": root, "probe": root / "imae" / "probe.pth"}


@pytest.fixture
def places(originals, tmp_path):
    """Return flag values by name: a user's data, and a folder for output."""
    return copied(originals, tmp_path)


def call(places, command):
    """Run a console script, with names of `places` filled in."""
    program, *arguments = shlex.split(command.format(**places))
    name = program.removeprefix("fastimae-")
    function = {"eval": "evaluate", "import": "import_"}.get(name, name)
    return getattr(cli, function)(arguments)


def task_command(task):
    images = DATA.get(task, "--data_path {images}")
    flags = f"--device cpu --num_workers 0 {images}"
    return f"fastimae-eval {task} --checkpoint {{imae}} {flags} {SMALL.get(task, '')}"


STUDY = "fastimae-eval study same_class_ratio --data_path {images} --only baseline"
WRITES = {
    "train": (f"fastimae-train {TRAIN} --output_dir", "--output_dir"),
    "train, log_dir": (f"fastimae-train {TRAIN} --output_dir {{out}} --log_dir", "--log_dir"),
    "study": (f"{STUDY} --output_dir", "--output_dir"),
    "compare": ("fastimae-eval compare {mae.parent} {imae.parent} --output_dir", "--output_dir"),
    **{task: (f"{task_command(task)} --output_dir", "--output_dir") for task in OF_CHECKPOINTS},
    **{
        f"{task}, log_dir": (f"{task_command(task)} --output_dir {{out}} --log_dir", "--log_dir")
        for task in ("linear", "finetune", "msem", "segment", "detect")
    },
}
"""A command up to the folder that it writes to, and the flag that names the folder."""
WRITES_FILES = {
    "convert": ("fastimae-convert {images}/train", "OUT"),
    "export": ("fastimae-export {mae} --to timm", "OUT"),
    "import": ("fastimae-import {mae}", "OUT"),
    "cluster, output": (f"{task_command('cluster')} --output_dir {{out}} --output", "--output"),
    "report": ("fastimae-eval report {mae.parent} --output", "--output"),
    "features, OUT": (f"{task_command('features')} --output_dir {{out}}", "OUT"),
}
FEATURES = {
    task: f"{task_command(task)} --feature_dir" for task in ("linear", "knn", "fewshot", "cluster")
}


@pytest.fixture
def idle(monkeypatch):
    """Make anything that takes time fail the test: reading weights or images, and starting
    processes."""

    def boom(*args, **_):
        raise AssertionError(f"this was to come later: {args}")

    monkeypatch.setattr(torch, "load", boom)
    monkeypatch.setattr(Image, "open", boom)
    monkeypatch.setattr(BetonReader, "__init__", boom)
    monkeypatch.setattr(subprocess, "Popen", boom)
    monkeypatch.setattr("fastimae.build.build_loader", boom)


def refused(capsys, *words):
    line = capsys.readouterr().err.strip().splitlines()[-1]
    return "error: " in line and all(str(word) in line for word in words)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", WRITES)
def test_a_folder_that_cannot_be_written_is_found_first(places, capsys, name):
    command, flag = WRITES[name]
    (places["root"] / "file").write_text("")
    bad = places["root"] / "file" / "below"
    assert call(places, f"{command} {bad}") == 2
    assert refused(capsys, bad, "is not a folder", flag)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", WRITES_FILES)
def test_a_file_that_cannot_be_written_is_found_first(places, capsys, name):
    command, flag = WRITES_FILES[name]
    (places["root"] / "file").write_text("")
    bad = places["root"] / "file" / "x.safetensors"
    assert call(places, f"{command} {bad}") == 2
    assert refused(capsys, bad.parent, "is not a folder", flag)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("task", FEATURES)
def test_a_feature_dir_that_cannot_be_written_is_found_first(places, capsys, task):
    (places["root"] / "file").write_text("")
    assert call(places, f"{FEATURES[task]} {places['root'] / 'file'}") == 2
    assert refused(capsys, places["root"] / "file", "--feature_dir")


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("task", OF_CHECKPOINTS)
def test_the_usual_folder_cannot_be_written(places, capsys, task):
    """Beside a checkpoint on someone else's disk; nothing is made beside a mistyped name."""
    (places["imae"].parent / f"eval-{task}").write_text("")
    assert call(places, task_command(task)) == 2
    assert refused(capsys, f"eval-{task} is not a folder", "--output_dir")
    assert call(places | {"imae": places["root"] / "typo" / "x.pth"}, task_command(task)) == 2
    assert refused(capsys, "there is no checkpoint", "typo")
    assert not (places["root"] / "typo").exists()


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", WRITES)
def test_a_folder_in_use_is_refused(places, capsys, name):
    command, flag = WRITES[name]
    (places["root"] / "held").mkdir()
    with folder_to_write(places["root"] / "held"):
        assert call(places, f"{command} {places['root'] / 'held'}") == 2
    assert refused(capsys, places["root"] / "held", "in use", flag)
    assert list((places["root"] / "held").iterdir()) == []


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("name", WRITES_FILES)
def test_a_file_in_use_is_refused(places, capsys, name):
    command, flag = WRITES_FILES[name]
    with file_to_write(places["root"] / "x.safetensors"):
        assert call(places, f"{command} {places['root'] / 'x.safetensors'}") == 2
    assert refused(capsys, places["root"] / "x.safetensors", "in use", flag)


def test_the_demo_writes_first_and_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "draw_dataset", None)
    with folder_to_write(tmp_path):
        assert demo.main(["--output_dir", str(tmp_path)]) == 1
    assert "in use" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert demo.main(["--output_dir", str(tmp_path / "file")]) == 1
    assert "is not a folder" in capsys.readouterr().err


@pytest.fixture
def gray(monkeypatch):
    """Make trainings save gray pictures: drawing takes longer than the rest of them."""
    monkeypatch.setattr(reconstruction, "draw_grid", save_gray)


def files(folder):
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


TO_RUN = {
    **{name: f"{WRITES[name][0]} {{out}}" for name in ("train", "compare", *OF_CHECKPOINTS)},
    **{name: f"{command} {{out}}/x.safetensors" for name, (command, _) in WRITES_FILES.items()},
    "export, pth": "fastimae-export {mae} {out}/x.pth --to timm",
    "export, huggingface": "fastimae-export {mae} {out}/x --to huggingface",
}


@pytest.fixture(scope="module")
def ran(originals, tmp_path_factory):
    """Return a function that runs a command of `TO_RUN` once, with a umask that other tests do not
    have: it returns its places, and the files before and after."""
    kept = {}

    def run_once(name):
        if name not in kept:
            places = copied(originals, tmp_path_factory.mktemp("ran"))
            before = files(places["root"])
            with homeless(places["root"]), group_may_write():
                assert call(places, TO_RUN[name]) == 0
            kept[name] = places, before, files(places["root"])
        return kept[name]

    return run_once


@contextlib.contextmanager
def homeless(root):
    """Have the home folder and the working folder in a folder that is watched."""
    for name in ("home", "here"):
        (root / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("XDG_CACHE_HOME", str(root / "home" / ".cache"))
        patch.chdir(root / "here")
        yield


@contextlib.contextmanager
def group_may_write():
    before = os.umask(0o002)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", TO_RUN)
def test_nothing_is_written_elsewhere_nor_for_others_than_the_umask_says(ran, name):
    """Except the measured FLOP/s of this machine, which belongs to no run."""
    places, before, after = ran(name)
    made = {path for path in after if before.get(path) != after[path]}
    told = {path for path in made if path.startswith("out/")}
    assert told and all(path.startswith("home/.cache/fastimae/") for path in made - told)
    assert before.keys() <= after.keys()
    assert not [path for path in made if path.endswith((LOCK, ".partial", ".lock"))]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in places["root"].rglob("*")}
    wrong = [path for path, mode in modes.items() if mode != (0o775 if path.is_dir() else 0o664)]
    own = [places["root"] / path for path in before]  # made before that umask
    own += [places["root"] / name for name in ("home", "here")]
    assert not set(wrong) - {*own, *(folder for path in own for folder in path.parents)}


@pytest.mark.parametrize("task", OF_CHECKPOINTS)
def test_results_name_their_weights_and_pictures(ran, task):
    places, *_ = ran(task)
    content = json.loads((places["out"] / "results.json").read_text())
    assert content["weights"] == weights_digest(load_checkpoint(places["imae"])["model"])
    assert content["epoch"] == 0
    pictures = {path.name for path in places["out"].glob("*.png")}
    assert set(content["pictures"]) == pictures
    assert bool(pictures) == (task not in WITHOUT_PICTURES)
    check_run_file(places["out"], task, content)
    described = (ROOT / "docs" / "output.md").read_text()
    for path in places["out"].glob("*.*"):
        name = re.sub(r"-\d+\.", "-N.", path.name)
        assert name.startswith((".", "events.")) or f"`{name}`" in described, path


def check_run_file(folder, task, content):
    """Check that run.yaml has one start, and that --config reads it back, as the same settings."""
    written = read_run_file(folder)
    (entry,) = written.pop("starts")
    assert entry["command"].startswith(f"fastimae-eval {task} --checkpoint ")
    assert entry["outcome"] == "finished" and entry["started"] <= entry["ended"]
    assert entry["versions"] == content["versions"] and entry["processes"] == 1
    again = options_of(task, ["--config", str(folder / RUN_FILE), "--seed", "5"])
    assert run_settings(plain_settings(again), again.recorded) == {**written, "seed": 5}


def test_evaluations_in_one_folder_share_a_run_file(places):
    """The second command finds the training finished."""
    train = f"{WRITES['linear'][0]} {places['out']} --resume auto"
    for epochs in (1, 1, 2):
        assert call(places, train.replace("--epochs 1", f"--epochs {epochs}")) == 0
    run = read_run_file(places["out"])
    assert run["epochs"] == 2 and [start["outcome"] for start in run["starts"]] == ["finished"] * 3
    assert [start.get("epoch") for start in run["starts"]] == [0.0, None, 1.0]
    assert run["starts"][0]["run"] == run["starts"][2]["run"]


def test_pictures_of_an_earlier_call_do_not_stay(places):
    folder = places["out"]
    for samples in (2, 1):
        command = WRITES["attention"][0].replace("--samples 1", f"--samples {samples}")
        assert call(places, f"{command} {folder}") == 0
        (folder / "mine.png").write_bytes(b"")
    drawn = ["attention-0.png", "attention.png", "attention_width.png", "mine.png"]
    assert sorted(path.name for path in folder.glob("*.png")) == drawn


def test_debug_log_lies_where_output_goes(places, monkeypatch, capsys):
    """Also in the default folder, or in one that this call has made."""
    monkeypatch.chdir(places["root"])
    (places["root"] / "output_dir").mkdir()  # another run's
    broken = places["imae"].parent / "checkpoint-broken.pth"
    broken.write_bytes(b"broken")
    command = task_command("knn").replace("{imae}", str(broken)) + " --debug"
    assert call(places, command) == 2
    assert call(places, f"{command} --output_dir {{out}}/new") == 2
    for folder in (places["imae"].parent / "eval-knn", places["out"] / "new"):
        assert "CheckpointError" in (folder / "debug.log").read_text()
    assert call(places, f"fastimae-export {broken} {places['out']}/x.pth --to timm --debug") == 2
    assert "Traceback" in capsys.readouterr().err
    assert list((places["root"] / "output_dir").iterdir()) == []


@pytest.mark.usefixtures("gray")
def test_a_second_run_in_the_folder_begins_with_nothing_of_the_first(places):
    run = places["out"]
    assert call(places, f"fastimae-train {TRAIN} --output_dir {run}") == 0
    places["imae"] = run / "checkpoint-last.pth"
    for task in ("knn", "linear"):
        assert call(places, task_command(task)) == 0
    assert call(places, "fastimae-eval report {out}") == 0
    assert "Nearest neighbours" in (run / "report.html").read_text()
    assert call(places, f"fastimae-train {TRAIN} --seed 1 --output_dir {run}") == 0
    assert {"eval-knn", "eval-linear", "eval-features", "report.html", "log.txt"} <= {
        path.name for path in (run / "previous-1").iterdir()
    }
    assert call(places, "fastimae-eval report --run {out}") == 0
    assert "Nearest neighbours" not in (run / "report.html").read_text()


@pytest.mark.usefixtures("gray")
def test_a_run_resumed_from_elsewhere_is_not_mixed_with_the_folders_own(places):
    first, second = places["out"] / "first", places["out"] / "second"
    for folder, seed in ((first, 0), (second, 1)):
        assert call(places, f"fastimae-train {TRAIN} --seed {seed} --output_dir {folder}") == 0
    log = (second / "log.txt").read_text()
    longer = TRAIN.replace("--epochs 1", "--epochs 2")
    command = f"fastimae-train {longer} --output_dir {second} --resume"
    assert call(places, f"{command} {first / 'checkpoint-0.pth'}") == 0
    assert (second / "previous-1" / "log.txt").read_text() == log
    assert [json.loads(line)["epoch"] for line in (second / "log.txt").open()] == [1]
    assert call(places, f"{command} {second / 'checkpoint-last.pth'}") == 0
    assert not (second / "previous-2").exists()


def test_a_probe_does_not_go_on_from_one_of_other_weights(places, capsys):
    command = f"{WRITES['linear'][0]} {places['out']} --resume auto"
    assert call(places, command) == 0
    assert call(places, command) == 0
    torch.manual_seed(5)
    save_run(places["imae"].parent, tiny_model(heads=2))
    assert call(places, command) == 2
    assert refused(capsys, "other weights", "--resume")
