"""fastimae-eval segment: learns scenes of shapes, resumes, tests again, on any ranks and files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shape_scenes import CLASSES, write_segmentation
from tiny import save_run, tiny_model

pytest.importorskip("timm")
pytest.importorskip("torchmetrics")

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.evaluate.segmentation.objective import Segmentation
from fastimae.interop import load_model
from fastimae.models import create_model

TESTS = Path(__file__).resolve().parents[1]
BASE = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32", "--pictures", "2"]
QUICK = ["--input_size", "32", "--epochs", "2", "--batch_size", "8", "--warmup_epochs", "0"]
SMALL = ["--head_dim", "16", "--no_frozen"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a checkpoint and scenes, and the command's options for them."""
    root = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    mae = save_run(root / "mae", tiny_model(img_size=64, patch_size=8))
    write_segmentation(root / "scenes", train=16, val=5, size=(48, 64))
    return root, ["--checkpoint", str(mae), "--data_path", str(root / "scenes"), *BASE]


def run(toy, name, *flags):
    root, options = toy
    assert segment(*options, *flags, "--output_dir", root / name) == 0
    return root / name


def refused(toy, capsys, *flags):
    assert segment(*toy[1], *flags) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def segment(*flags):
    """Run the command; of a flag that is given twice, the last one counts."""
    words = {}
    for word in map(str, flags):
        if word.startswith("--"):
            words.pop(word, None)
            words[word] = values = []
        else:
            values.append(word)
    return evaluate(["segment", *(word for flag in words.items() for word in (flag[0], *flag[1]))])


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def numbers_of(folder):
    return results_of(folder)["numbers"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def weights_of(path):
    return load_checkpoint(path)["model"]


def test_it_learns_scenes_and_its_best_can_be_tested_again(tmp_path):
    """From a model of random weights; a few of the images that it learns are those to test on."""
    torch.manual_seed(0)
    sizes = {"depth": 4, "embed_dim": 64, "num_heads": 4, "decoder_embed_dim": 32}
    mae = save_run(tmp_path / "mae", create_model("mae_vit_nano_patch8", img_size=64, **sizes))
    scenes = write_segmentation(tmp_path / "scenes", train=48, val=0, size=64)
    for kind, end in (("images", "jpg"), ("masks", "png")):
        (scenes / "val" / kind).mkdir(parents=True)
        for number in range(6):
            name = f"{kind}/train_{number:03d}.{end}"
            shutil.copy(scenes / "train" / name, scenes / "val" / name)
    options = ["--checkpoint", str(mae), "--data_path", str(scenes), *BASE]
    flags = ["--input_size", 64, "--short_side", 128, "--min_scale", 0.8, "--max_scale", 1.2]
    flags += ["--no_color_distort", "--no_frozen", "--head_dim", 32, "--layer_decay", 1]
    flags += ["--drop_path", 0, "--epochs", 13, "--batch_size", 8, "--lr", 6e-3]
    folder = run((tmp_path, options), "learns", *flags)
    numbers, lines = numbers_of(folder), lines_of(folder)
    assert numbers["mIoU"] > 90 and numbers["aAcc"] > 97
    assert list(numbers["IoU"]) == list(CLASSES) and min(numbers["IoU"].values()) > 75
    assert numbers["mIoU"] == pytest.approx(sum(numbers["IoU"].values()) / 4)
    assert lines[-1]["train_loss"] < 0.2 < 1 < lines[0]["train_loss"]
    assert numbers["mIoU"] == lines[-1]["test_mIoU"] and len(lines) == numbers["epochs"] == 13
    best = max(lines, key=lambda line: line["test_mIoU"])
    assert (numbers["best_mIoU"], numbers["best_epoch"]) == (best["test_mIoU"], best["epoch"])
    assert results_of(folder)["pictures"] == ["iou.png", "scenes.png"]
    again = run((tmp_path, [*options[2:]]), "learns", "--eval")
    assert numbers_of(again / "eval")["mIoU"] == pytest.approx(numbers["best_mIoU"], rel=1e-9)
    assert numbers_of(folder) == numbers
    encoder = load_model(folder / "checkpoint-best.pth", encoder_only=True)
    assert encoder.img_size == (64, 64)
    trained = weights_of(folder / "checkpoint-best.pth")
    for name in ("blocks.3.mlp.fc2.weight", "pos_embed"):
        assert torch.equal(encoder.state_dict()[name], trained[f"encoder.{name}"])


def test_a_frozen_encoder_keeps_its_bits(toy):
    root, _ = toy
    folder = run(toy, "frozen", *QUICK, "--epochs", 12, "--lr", 0.05, "--val_freq", 5)
    numbers, lines = numbers_of(folder), lines_of(folder)
    tested = {line["epoch"]: line["test_mIoU"] for line in lines if "test_mIoU" in line}
    assert list(tested) == [0, 5, 10, 11] and len(lines) == 12
    assert numbers["best_mIoU"] == max(tested.values()) == tested[numbers["best_epoch"]]
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"] and numbers["aAcc"] > 70
    before, saved = (load_checkpoint(root / "mae" / "checkpoint-last.pth")["model"],
                     load_checkpoint(folder / "checkpoint-last.pth"))  # fmt: skip
    kept = {name for name in before if name.startswith(("blocks.", "norm.", "patch_", "cls_"))}
    assert len(kept) > 20
    assert all(torch.equal(before[name], saved["model"][f"encoder.{name}"]) for name in kept)
    assert len(saved["optimizer"]["state"]) == 2  # the layer's weight and bias
    assert saved["model"]["head.norm.running_var"].min() != 1
    again = run(toy, "frozen", "--eval")
    assert numbers_of(again / "eval")["mIoU"] == pytest.approx(numbers["best_mIoU"], rel=1e-9)
    for flags, stride in ((["--stride", 32], 32), (["--input_size", 16], 10)):
        settings = results_of(run(toy, "frozen", "--eval", *flags) / "eval")["settings"]
        assert (settings["stride"], settings["short_side"]) == (stride, 32)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(toy, monkeypatch):
    flags = [*QUICK, *SMALL, "--drop_path", 0.5, "--log_steps", 1]
    whole = run(toy, "whole", *flags)
    for name, stop in (("within", 1), ("between", 2)):  # two steps an epoch
        with monkeypatch.context() as patch:
            calls, real = [], Segmentation.forward

            def forward(self, batch, calls=calls, stop=stop, real=real):
                calls.append(1)
                if len(calls) == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                return real(self, batch)

            patch.setattr(Segmentation, "forward", forward)
            folder = run(toy, name, *flags, "--resume", "auto")
            assert len(calls) == stop and not (folder / "results.json").exists()
        run(toy, name, *flags, "--resume", "auto")
        a, b = (load_checkpoint(path / "checkpoint-last.pth") for path in (whole, folder))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
        assert numbers_of(folder) == numbers_of(whole)


def test_a_finished_run_reports_again(toy):
    flags = [*QUICK, "--epochs", 1]
    folder = run(toy, "finished", *flags)
    numbers = numbers_of(folder)
    (folder / "results.json").unlink()
    assert numbers_of(run(toy, "finished", *flags, "--resume", "auto")) == numbers


def test_two_processes_train_and_test_as_one(toy):
    root, options = toy
    flags = [*options, *SMALL, "--input_size", "32", "--drop_path", "0.3", "--lr", "1e-3"]
    flags += ["--warmup_epochs", "0", "--epochs", "1"]
    one = run(toy, "one", *flags[len(options) :], "--batch_size", 8)
    done = subprocess.run(
        [sys.executable, str(TESTS / "evaluate" / "segment_ranks.py"), str(root), *flags],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(
            map(str, (TESTS.parent, TESTS, TESTS / "engine")))},
        capture_output=True, text=True, timeout=150, check=True,
    )  # fmt: skip
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes == {"two": [0, 0], "test": [0, 0]}, (root / "two-0.txt").read_text()
    for first, second in zip(lines_of(one), lines_of(root / "two"), strict=True):
        assert first["train_loss"] == pytest.approx(second["train_loss"], rel=1e-5)
    alone, several = (weights_of(path / "checkpoint-last.pth") for path in (one, root / "two"))
    for name, value in alone.items():
        torch.testing.assert_close(several[name], value, rtol=1e-3, atol=1e-4, msg=name)
    tested, best = numbers_of(root / "test" / "eval"), numbers_of(one)["best_mIoU"]
    assert tested["mIoU"] == pytest.approx(best, rel=1e-9)
    assert tested["val_images"] == 5  # three and two of them


@pytest.mark.parametrize("layout", ["voc", "ade20k", "images_first"])
def test_public_layouts_are_recognised(toy, tmp_path, layout):
    data = write_segmentation(tmp_path / "data", layout, train=8, val=2, size=40)
    folder = run((tmp_path, toy[1]), "out", *QUICK, "--epochs", 1, "--data_path", data)
    classes = {"voc": 21, "ade20k": 150, "images_first": 4}[layout]
    numbers = numbers_of(folder)
    assert len(numbers["IoU"]) == classes
    args = load_checkpoint(folder / "checkpoint-best.pth")["args"]
    assert len(args["classes"]) == classes and args["input_size"] == [32, 32]


def test_a_broken_image_is_counted(toy, tmp_path):
    root, options = toy
    data = shutil.copytree(root / "scenes", tmp_path / "scenes")
    for path in ("train/images/train_003.jpg", "val/images/val_001.jpg"):
        (data / path).write_bytes((data / path).read_bytes()[:300])
    out = run((tmp_path, options), "out", *QUICK, "--epochs", 1, "--data_path", data)
    numbers = numbers_of(out)
    assert (numbers["bad_samples"], numbers["bad_images"]) == (1, 1)


REFUSED = {
    "no model": (["--checkpoint", "none.pth"], "there is no checkpoint none.pth"),
    "a stride with gaps": (["--input_size", 32, "--stride", 40], "--stride 40 leaves gaps"),
    "scales": (["--min_scale", 3], "--min_scale 3 is above --max_scale 2"),
    "a size": (["--input_size", 36], "--input_size 36x36 is not a multiple of the patch size 8"),
    "layers": (["--layers", 7], "--layers 7: the encoder has blocks 0 to 1"),
    "few layers": (["--head", "fpn", "--layers", 1], "--head fpn takes 4 blocks, not 1"),
    "idle with frozen": (["--drop_path", 0.3], "--drop_path has no effect with a frozen encoder"),
    "idle with linear": (["--head_dim", 8], "--head_dim has no effect with --head linear"),
    "idle with eval": (
        ["--eval", "--epochs", 3, "--lr", 1],
        "--epochs and --lr have no effect with --eval: drop them",
    ),
    "a large batch": (["--batch_size", 64], "--batch_size 64 on 1 ranks does not fit 16 images"),
    "no data": (["--data_path", "none"], "--data_path none: there is no such folder"),
    "another layout": (["--layout", "voc"], "looked for JPEGImages"),
    "no names": (["--classes", "none.txt"], "--classes none.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_one_line_that_says_so(toy, tmp_path, case, capsys):
    flags, said = REFUSED[case]
    line = refused(toy, capsys, "--input_size", 32, *flags, "--output_dir", tmp_path)
    assert line.startswith("fastimae-eval: error: ") and said in line


def test_a_model_is_tested_on_the_classes_it_knows(toy, tmp_path, capsys):
    root, options = toy
    folder = run(toy, "known", *QUICK, "--epochs", 1)
    (tmp_path / "names.txt").write_text("\n".join(["ground", *CLASSES[1:]]))
    names = ["--classes", tmp_path / "names.txt"]
    line = refused(toy, capsys, "--eval", "--output_dir", folder, *names)
    assert "val/images has 4 classes (ground" in line and "--classes" in line
    resumed = [*QUICK, "--epochs", 2, "--resume", "auto", "--output_dir", folder, *names]
    assert "is of 4 classes (background" in refused(toy, capsys, *resumed)
    mae = root / "mae" / "checkpoint-last.pth"
    line = refused(toy, capsys, "--eval", "--resume", mae, "--output_dir", tmp_path)
    assert f"--resume {mae} is a MAE, and --eval tests a segmentation model" in line
    line = refused(toy, capsys, *QUICK, "--resume", mae, "--output_dir", tmp_path)
    assert f"--resume {mae} is a MAE, and this run trains a segmentation model" in line
    line = refused((root, options[2:]), capsys, "--output_dir", tmp_path)
    assert "give the pre-trained model as --checkpoint FILE" in line
