"""fastimae-eval detect learns scenes of shapes: AP of boxes and masks above 90."""

import json
from functools import partial

import pytest
import torch
from detect_runs import annotations, changed, lines_of, numbers_of, run
from PIL import Image
from shape_scenes import write_coco
from tiny import save_run, tiny_model

pytest.importorskip("faster_coco_eval")
from fastimae.engine.checkpoint import load_checkpoint

PRETRAINED, SIDE, SCENES = 96, 128, 4
STEPS, BATCH, EPOCHS = 350, 4, 2
LEARNING = (
    f"--input_size {SIDE} --batch_size {BATCH} --epochs {EPOCHS} --warmup_epochs 0.1 --lr 2e-3 "
    "--clip_grad 1 --layer_decay 1 --drop_path 0 --weight_decay 0.05 --log_steps 50 "
    "--no_hflip --min_scale 1 --max_scale 1 --pictures 1 "
    "--window 0 --head_channels 24 --proposals 24 --rpn_batch 32 --roi_batch 16"
)


@pytest.fixture
def toy(tmp_path):
    """A folder with a checkpoint and scenes, whose shapes are not small."""
    torch.manual_seed(0)
    save_run(tmp_path / "mae", tiny_model(img_size=PRETRAINED, embed_dim=48), num_heads=4)
    write_coco(tmp_path / "coco", train=SCENES, val=1, size=SIDE, smallest=0.19)
    return tmp_path


def repeat(content, times):
    """List each image `times` times, so that an epoch is long and its test is rare."""
    images, objects = content["images"], content["annotations"]
    content["images"] = [
        {**image, "id": image["id"] + 10_000 * k} for k in range(times) for image in images
    ]
    content["annotations"] = [
        {**each, "image_id": each["image_id"] + 10_000 * k, "id": each["id"] + 1_000 * k}
        for k in range(times) for each in objects
    ]  # fmt: skip


@pytest.mark.timeout(600)  # on a slow machine that others use, too
def test_it_learns_scenes_and_its_best_can_be_tested_again(toy):
    """At 128 pixels, for which positions are resized; --val_annotations: what was learned."""
    train = changed(toy, "often", partial(repeat, times=STEPS * BATCH // EPOCHS // SCENES))
    data = f"--val_annotations {annotations(toy)}"
    folder = run(toy, "learns", LEARNING, data, f"--train_annotations {train} --save_detections")
    numbers, lines = numbers_of(folder), lines_of(folder)
    assert numbers["AP"] > 90 and numbers["AP_mask"] > 90
    assert numbers["AP50"] > 95 and numbers["AP50_mask"] > 95
    assert {"circle", "square", "triangle"} == {row["class"] for row in numbers["by_class"]}
    assert numbers["AP"] == lines[-1]["test_AP"] and numbers["val_images"] == SCENES
    parts = [f"train_{name}" for name in ("rpn_class", "rpn_box", "box_class", "box", "mask")]
    assert lines[-1]["train_loss"] == pytest.approx(sum(lines[-1][name] for name in parts))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"] / 2
    for name in ("detections.png", "curves.png"):
        assert Image.open(folder / name).size[0] > 300
    found = json.loads((folder / "detections.json").read_text())
    assert {row["category_id"] for row in found} <= {2, 5, 9}
    best = load_checkpoint(folder / "checkpoint-best.pth")
    assert best["metrics"]["test_AP"] == numbers["best_AP"]
    again = numbers_of(run(toy, "learns", f"--eval --input_size {SIDE}", data) / "eval")
    assert again["AP"] == numbers["best_AP"] and again["AP_mask"] == numbers["best_AP_mask"]
    assert numbers_of(folder) == numbers
    # It detects at another size, too.
    larger = run(toy, "learns", "--eval --input_size 160 --score_threshold 0.5", data)
    assert numbers_of(larger / "eval")["AP50"] > 10
