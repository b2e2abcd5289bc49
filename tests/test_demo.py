"""The demo draws what it says it does, and fails loudly if a step does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastimae import cli, recipes
from fastimae.demo import __main__ as demo
from fastimae.demo import commands as running
from fastimae.demo import drawing, pace

TRAINER = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_dir") + 1])
folder.mkdir(parents=True, exist_ok=True)

def stop(*_):
    if {saves}:
        (folder / "checkpoint-last.pth").write_text("weights")
    sys.exit({status})

signal.signal(signal.SIGTERM, stop)
with (folder / "log.txt").open("a") as log:
    if "--resume" in sys.argv:
        log.write(json.dumps({{"train_loss": {last}}}) + "\\n")
        (folder / "reconstruction.png").write_text("picture")
        sys.exit(0)
    for loss in (1.0, 0.9):
        log.write(json.dumps({{"train_loss": loss}}) + "\\n")
        log.flush()
time.sleep({sleep})
"""
GOOD = {"saves": True, "status": 0, "last": 0.5, "sleep": 60}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Return a function that replaces console commands by scripts: `commands(trainer_source)`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(running.sys, "executable", str(folder / "python"))
    monkeypatch.setattr(demo, "PER_CLASS", 2)
    monkeypatch.setattr(demo, "length_flags", lambda beton, begin: ["--epochs", "4"])

    def install(trainer: str, convert: str = "") -> None:
        for name, source in (("fastimae-train", trainer), ("fastimae-convert", convert)):
            (folder / name).write_text(f"#!{PYTHON}\n{source}")
            (folder / name).chmod(0o755)

    return install


PYTHON = sys.executable


def test_the_demo_interrupts_resumes_and_names_what_it_made(commands, tmp_path, capfd):
    commands(TRAINER.format(**GOOD))
    out = tmp_path / "demo_output"
    assert demo.main(["--output_dir", str(out)]) == 0
    shown = capfd.readouterr().out
    train = f"$ fastimae-train --recipe demo --ffcv {out}/demo.beton --output_dir {out}/run"
    train += " --epochs 4"
    assert f"$ fastimae-convert {out}/images {out}/demo.beton --limit 4000\n" in shown
    assert shown.index(f"{train}\n") < shown.index(f"{train} --resume auto\n")
    assert "the loss fell from 1.000 to 0.500" in shown
    assert f"{out}/run/reconstruction.png" in shown and f"{out}/run/log.txt" in shown
    assert len(list(out.glob("images/*/*.jpg"))) == 2 * len(drawing.SHAPES)


RANKS = {"RANK": "0", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}


def test_its_commands_see_no_launcher(commands, tmp_path, monkeypatch):
    """Under torchrun or srun they would wait for processes that nothing starts."""
    for name, value in RANKS.items():
        monkeypatch.setenv(name, value)
    alone = f"import os\nassert not {set(RANKS)}.intersection(os.environ)\n"
    commands(alone + TRAINER.format(**GOOD), convert=alone)
    assert demo.main(["--output_dir", str(tmp_path / "out")]) == 0


def test_of_several_processes_the_first_one_shows_it(commands, tmp_path, monkeypatch):
    for name, value in {**RANKS, "RANK": "1", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    commands("raise SystemExit('must not run')", convert="raise SystemExit('must not run')")
    assert demo.main(["--output_dir", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_over_before_its_stop_is_not_resumed(commands, tmp_path, capfd):
    done = (
        TRAINER
        + """
(folder / "checkpoint-last.pth").write_text("weights")
(folder / "reconstruction.png").write_text("picture")
"""
    )
    commands(done.format(**{**GOOD, "sleep": 0}))
    out = tmp_path / "demo_output"
    assert demo.main(["--output_dir", str(out)]) == 0
    shown = capfd.readouterr().out
    assert "nothing to resume" in shown and "--resume auto" not in shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"last": 1.5}, "the loss did not fall"),
        ({"last": "float('nan')"}, "the loss did not fall"),
        ({"saves": False}, "left no checkpoint-last.pth"),
        ({"status": 3}, "fastimae-train exited with status 3"),
        ({"sleep": 0, "saves": False}, "left no checkpoint-last.pth"),
    ],
)
def test_a_step_that_goes_wrong_fails_the_demo(commands, tmp_path, capfd, change, reason):
    commands(TRAINER.format(**{**GOOD, **change}))
    data = tmp_path / "pictures"
    assert demo.main(["--data", str(data), "--output_dir", str(tmp_path / "out")]) == 1
    assert reason in capfd.readouterr().err


def test_a_failing_conversion_fails_the_demo_before_training(commands, tmp_path, capfd):
    commands("raise SystemExit('must not run')", convert="raise SystemExit(2)")
    assert demo.main(["--data", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 1
    captured = capfd.readouterr()
    assert "fastimae-convert exited with status 2" in captured.err
    assert "must not run" not in captured.err


def test_a_command_that_hangs_is_ended(commands, monkeypatch):
    commands("", convert="import time; time.sleep(60)")
    monkeypatch.setattr(running, "STALLED_SECONDS", 0.5)
    with pytest.raises(running.DemoError, match=r"hangs: it computed nothing for 0\.5 s"):
        running.run(["fastimae-convert"])


def test_a_slow_command_is_not_ended(commands, monkeypatch):
    """It computes a little, over and over: its turns on a loaded machine; then a child does."""
    turn = "end = time.process_time() + 0.03\nwhile time.process_time() < end: pass\n"
    turns = f"import time\nfor _ in range(8):\n    time.sleep(0.2)\n    {turn}".replace(
        "\nwhile", "\n    while"
    )
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {turns!r}])\n"
    commands("", convert=turns + child)
    monkeypatch.setattr(running, "STALLED_SECONDS", 1)
    running.run(["fastimae-convert"])


def test_commands_that_are_not_installed_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(running.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(running.DemoError, match="make setup"):
        running.run(["fastimae-convert"])


@pytest.mark.parametrize(
    ("rate", "start", "epochs", "fits"),
    [
        (850, 4, 12, True),  # the whole recipe
        (220, 8, 10, True),
        (100, 10, 4, True),
        (62, 10, 3, True),
        (30, 20, 3, False),  # fewer epochs would not separate the images
    ],
)
def test_the_training_is_cut_to_the_time_there_is(rate, start, epochs, fits):
    left = pace.SECONDS - 4
    length = pace.choose_length(pace.Pace(img_per_s=rate, start=start), 4000, left)
    assert length.epochs == epochs <= recipes.demo()["epochs"]
    assert (length.seconds <= left) == fits
    assert length.seconds == pytest.approx(2 * start + pace.MARGIN + epochs * 4000 / rate)


@pytest.fixture(scope="module")
def beton(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    drawing.draw_dataset(folder / "images", per_class=4)
    assert cli.convert([str(folder / "images"), str(folder / "demo.beton")]) == 0
    return folder / "demo.beton"


@pytest.mark.parametrize(("rate", "epochs", "more"), [(1000, 12, False), (0.5, 3, True)])
def test_it_says_how_long_it_will_take(beton, monkeypatch, capfd, rate, epochs, more):
    monkeypatch.setattr(pace, "measure", lambda beton: pace.Pace(img_per_s=rate, start=5))
    assert demo.length_flags(beton, time.monotonic())[:2] == ["--epochs", str(epochs)]
    shown = capfd.readouterr().out
    assert f"{rate:.0f} mixtures per second: {epochs} epochs of 40 images will take about" in shown
    assert ("more than planned" in shown) == more


def test_the_machine_is_measured_with_the_recipe(beton, monkeypatch, capfd):
    monkeypatch.setattr(pace, "MEASURED_SECONDS", 0.05)
    begin = time.monotonic()
    pace.main(beton)
    measured = json.loads(capfd.readouterr().out)
    assert measured["img_per_s"] > 1 and 0.1 < measured["seconds"] < time.monotonic() - begin


@pytest.mark.parametrize("status", [0, 3])
def test_measuring_takes_place_in_another_process(tmp_path, monkeypatch, status):
    """What that does not spend on measuring is the time to start."""
    fake = tmp_path / "python"
    source = 'import sys, time; time.sleep(0.3); print(\'{"img_per_s": 50, "seconds": 0.2}\')'
    fake.write_text(f"#!{PYTHON}\n{source}; sys.exit({status})")
    fake.chmod(0o755)
    monkeypatch.setattr(pace.sys, "executable", str(fake))
    if status:
        with pytest.raises(running.DemoError, match="measuring the machine exited with status 3"):
            pace.measure(tmp_path)
        return
    measured = pace.measure(tmp_path)
    assert measured.img_per_s == 50 and 0.1 <= measured.start < 5


def test_make_demo_reaches_the_demo_and_fails_where_it_fails(tmp_path):
    """As the Makefile calls it; the commands fail because the folder of images does not exist."""
    arguments = ["--data", "no_such_folder", "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "fastimae.demo", *arguments],
        cwd=Path(demo.__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "$ fastimae-convert no_such_folder" in done.stdout
    assert "demo failed: fastimae-convert " in done.stderr


def test_the_last_logged_loss_counts(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("".join(json.dumps({"train_loss": loss}) + "\n" for loss in (3.0, 4.0, 2.0)))
    assert demo.loss_fell(log) == (3.0, 2.0)


def test_pictures_are_the_same_each_time_and_differ_from_each_other(tmp_path):
    for name in ("one", "two"):
        drawing.draw_dataset(tmp_path / name, per_class=3)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.jpg"))
    contents = [(tmp_path / "one" / path).read_bytes() for path in files]
    assert len(set(contents)) == 3 * len(drawing.SHAPES)
    assert contents == [(tmp_path / "two" / path).read_bytes() for path in files]
    with Image.open(tmp_path / "one" / files[0]) as image:
        assert (image.format, image.mode, image.size) == (
            "JPEG",
            "RGB",
            (drawing.SIDE, drawing.SIDE),
        )


def test_a_new_set_replaces_an_old_one(tmp_path):
    stale = tmp_path / "images" / "disc" / "9999.jpg"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    drawing.draw_dataset(tmp_path / "images", per_class=1)
    assert not stale.exists()


def test_the_colours_of_an_image_tell_its_class():
    """So that a small model can separate a mixture: the nearest mean colours give the class."""
    features = [
        np.quantile(drawing.draw_class(label, 40, np.random.default_rng(label)), [0.1, 0.9], (1, 2))
        .transpose(1, 0, 2)
        .reshape(40, 6)
        for label in range(len(drawing.SHAPES))
    ]
    centres = np.stack([feature[:20].mean(0) for feature in features])
    for label, feature in enumerate(features):
        distance = np.linalg.norm(feature[20:, None] - centres, axis=-1)
        assert (distance.argmin(1) == label).mean() > 0.8


def test_masks_are_of_the_same_drawings(tmp_path):
    """Ink and paper differ in colour; each mask has the number of its kind."""
    drawing.draw_scenes(tmp_path / "train", per_class=2, seed=3)
    drawing.draw_dataset(tmp_path / "images", per_class=2, seed=3)
    for label, name in enumerate(drawing.SHAPES):
        for number in range(2):
            file = tmp_path / "train" / "images" / name / f"{number:04}.jpg"
            assert file.read_bytes() == (tmp_path / "images" / name / file.name).read_bytes()
            mask = np.asarray(Image.open(tmp_path / "train" / "masks" / name / f"{number:04}.png"))
            pixels = np.asarray(Image.open(file)).astype(float)
            assert set(np.unique(mask)) == {0, label + 1}
            ink, paper = pixels[mask > 0], pixels[mask == 0]
            apart = np.linalg.norm(ink.mean(0) - paper.mean(0))
            assert apart > 2 * max(ink.std(0).mean(), paper.std(0).mean())


def test_annotations_are_of_the_same_masks(tmp_path):
    """faster-coco-eval's own reader finds each drawing's ink, and its box."""
    library = pytest.importorskip("faster_coco_eval")
    drawing.draw_scenes(tmp_path / "val", per_class=2, seed=3)
    coco = library.COCO(str(tmp_path / "val" / "_annotations.coco.json"))
    assert len(coco.anns) == len(coco.imgs) == 2 * len(drawing.SHAPES)
    assert [category["name"] for category in coco.cats.values()] == list(drawing.SHAPES)
    for object_ in coco.anns.values():
        file = tmp_path / "val" / coco.imgs[object_["image_id"]]["file_name"]
        assert file.is_file()
        mask = np.asarray(
            Image.open(tmp_path / "val/masks" / file.parent.name / f"{file.stem}.png")
        )
        assert np.array_equal(coco.annToMask(object_) * object_["category_id"], mask)
        rows, columns = np.nonzero(mask)
        left, top, width, height = object_["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
