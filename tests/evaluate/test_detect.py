"""fastimae-eval detect: it resumes exactly, tests alike on any number of ranks, names errors."""

import os
import signal
from functools import partial

import pytest
import torch
from detect_runs import changed, lines_of, numbers_of, run
from shape_scenes import write_coco
from tiny import save_run, tiny_model

pytest.importorskip("faster_coco_eval")
from engine.forked import launch

from fastimae.engine.checkpoint import load_checkpoint
from fastimae.evaluate.detection.objective import Detection
from fastimae.evaluate.tasks import detect  # noqa: F401 - before processes are forked

SIDE = 96
SMALL = (
    "--window 4 --global_blocks 1 --head_channels 8 --proposals 16 --rpn_batch 32 --roi_batch 16 "
    "--pictures 1"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a checkpoint and scenes."""
    root = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    save_run(root / "mae", tiny_model(img_size=SIDE, embed_dim=48), num_heads=4)
    write_coco(root / "coco", train=8, val=3, size=SIDE)
    return root


def test_a_stopped_run_goes_on_as_if_it_had_not_been(toy, monkeypatch):
    """Jitter, dropped paths, anchors and regions are drawn from keys of samples."""
    flags = [SMALL, "--epochs 2 --warmup_epochs 1 --lr 1e-3 --log_steps 1 --drop_path 0.5"]
    whole = run(toy, "whole", *flags)
    for name, stop in (("within", 3), ("between", 2)):  # two steps an epoch
        with monkeypatch.context() as patch:
            calls, real = [], Detection.forward

            def forward(self, batch, calls=calls, stop=stop, real=real):
                calls.append(1)
                if len(calls) == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                return real(self, batch)

            patch.setattr(Detection, "forward", forward)
            folder = run(toy, name, *flags, "--resume auto")
            assert len(calls) == stop and not (folder / "results.json").exists()
        torch.manual_seed(99)  # nothing depends on the generator's state
        run(toy, name, *flags, "--resume auto --num_workers 2")
        a, b = (load_checkpoint(path / "checkpoint-last.pth") for path in (whole, folder))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
        assert a["loader"] == b["loader"] and a["epoch"] == 1
        assert numbers_of(folder) == numbers_of(whole)
        losses = [[line["train_loss"] for line in lines_of(path)] for path in (whole, folder)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    # A finished run keeps its results, and does not resume on other weights.
    run(toy, "whole", *flags, "--resume auto")
    assert numbers_of(whole) == numbers_of(folder)


@pytest.fixture(scope="module")
def trained(toy):
    """A detector after one epoch of training on two ranks."""
    flags = [SMALL, "--epochs 1 --warmup_epochs 0 --lr 1e-3 --batch_size 2 --resume auto"]
    work = partial(quiet, partial(run, toy, "two", *flags))
    assert launch(toy, "train", 2, work)["codes"] == [0, 0]
    return toy / "two"


def quiet(work):
    torch.set_num_threads(1)
    work()
    return 0


def test_two_ranks_learn_and_test_as_one(toy, trained):
    flags = [SMALL, "--epochs 1 --warmup_epochs 0 --lr 1e-3"]
    alone = run(toy, "alone", *flags)
    one, two = lines_of(alone)[0], lines_of(trained)[0]
    # Losses are means over a rank's regions, and images have different numbers of them.
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.05)
    threshold = "--eval --score_threshold 0"
    both = partial(quiet, partial(run, toy, "two", threshold, "--output_dir", toy / "both",
                                  "--resume", trained / "checkpoint-last.pth"))  # fmt: skip
    assert launch(toy, "test", 2, both)["codes"] == [0, 0]
    run(toy, "two", threshold, "--output_dir", toy / "one", "--resume",
        trained / "checkpoint-last.pth")  # fmt: skip
    results = [numbers_of(toy / name / "eval") for name in ("one", "both")]
    assert results[0] == results[1] and results[0]["val_images"] == 3


def test_broken_images_and_data_without_outlines(toy, capsys):
    def break_and_bare(content):
        content["images"][0]["file_name"] = "broken.jpg"
        for each in content["annotations"]:
            each.pop("segmentation")

    for split in ("train", "val"):
        (toy / f"coco/{split}2017/broken.jpg").write_bytes(b"no image")
    paths = [changed(toy, "bare_of", break_and_bare, s) for s in ("train", "val")]
    data = f"--val_annotations {paths[1]}"
    flags = [SMALL, "--epochs 1 --lr 1e-3 --train_annotations", paths[0]]
    folder = run(toy, "bare", *flags, data)
    numbers = numbers_of(folder)
    assert numbers["bad_samples"] == numbers["bad_images"] == 1
    assert "AP" in numbers and "AP_mask" not in numbers
    assert "train_mask" not in lines_of(folder)[0]
    assert "broken.jpg is skipped" in capsys.readouterr().err
    assert numbers_of(run(toy, "bare", "--eval", data) / "eval")["AP"] == numbers["AP"]


def error_of(capsys, root, name, *flags):
    run(root, name, *flags, code=2)
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_errors_name_what_to_change(toy, trained, capsys):
    refused = partial(error_of, capsys, toy, "refused")
    assert "--input_size 100 is not a multiple of 32" in refused("--input_size 100")
    assert "give one side" in refused("--input_size 96 128")
    assert "--anchor_sizes: give 5 sizes" in refused("--anchor_sizes 8 16")
    assert "--min_scale 2 is above --max_scale 1" in refused("--min_scale 2 --max_scale 1")
    assert "there is no block 9" in refused("--global_blocks 9")
    assert "--coco" in refused("--coco", toy / "nowhere")
    mae = toy / "mae/checkpoint-last.pth"
    assert "is a MAE, and --eval tests a detector" in refused("--eval --resume", mae)
    assert "is a MAE, and this run trains a detector" in refused("--resume", mae)
    renamed = changed(
        toy, "renamed", lambda content: content["categories"][0].update(name="disc"), "val"
    )
    other = f"--val_annotations {renamed}"
    assert "training does not know: disc (it knows 3: circle" in refused(other)
    tested = ["--eval", other, "--resume", trained / "checkpoint-best.pth"]
    assert "training does not know: disc" in refused(*tested)
    (toy / "coco/val2017/empty.jpg").touch()
    unreadable = changed(
        toy, "unreadable",
        lambda content: [image.update(file_name="empty.jpg") for image in content["images"]], "val",
    )  # fmt: skip
    tested[1] = f"--val_annotations {unreadable}"
    assert "no image with an object can be read" in refused(*tested)
