"""fastimae-eval --input_size: models are measured at another size than they were trained at."""

import json

import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import save_colours

from fastimae.cli import evaluate
from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.engine.checkpoint_file import WEIGHTS
from fastimae.evaluate.candidates import load_candidates
from fastimae.evaluate.features import features, load_encoder
from fastimae.evaluate.origin import origin_of, read_origin
from fastimae.evaluate.pages.checkpoint_match import Checkpoints, match_checkpoint

CPU = torch.device("cpu")
OTHER = (48, 24)

TASKS = {
    "knn": [],
    "separability": [
        *("--teacher", "{root}/large/checkpoint-last.pth", "--mix_ratios", "0.3"),
        *("--train_samples", "8", "--val_samples", "8", "--mask_ratio", "0.5"),
    ],
    "attention": [
        *("--others", "{root}/large/checkpoint-last.pth", "--samples", "1", "--measured", "2")
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Make a folder with images, and runs at 32 x 32 and at 64 x 64 pixels."""
    root = tmp_path_factory.mktemp("sizes")
    save_colours(root / "data" / "train", 6)
    save_colours(root / "data" / "val", 6, seed=1)
    torch.manual_seed(0)
    save_run(root / "small", tiny_model(), epoch=4)
    save_run(root / "large", tiny_model(img_size=64))
    return root


def checkpoint(place, name="small"):
    return place / name / "checkpoint-last.pth"


def made_for(place, size, name="small"):
    """Return the model that has the run's weights and positions for another size."""
    model = tiny_model(img_size=size)
    kept = load_checkpoint(checkpoint(place, name))["model"]
    kept = {key: w for key, w in kept.items() if not key.endswith("pos_embed")}
    model.load_state_dict(kept, strict=False)
    return model.eval()


def test_features_are_those_of_a_model_for_that_size(place):
    model, expected = load_encoder(checkpoint(place), CPU, img_size=OTHER), made_for(place, OTHER)
    images = torch.randint(0, 256, (3, *OTHER, 3), dtype=torch.uint8)
    got, wanted = (features(each, images, "avg", "fp32") for each in (model, expected))
    assert torch.equal(got, wanted)


def test_models_of_different_sizes_get_the_same_one(place):
    paths = [checkpoint(place), checkpoint(place, "large")]
    found = load_candidates(paths, CPU, img_size=OTHER)
    for candidate, name in zip(found, ("small", "large"), strict=True):
        state = made_for(place, OTHER, name).state_dict()
        for key, value in candidate.model.state_dict().items():
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("task", TASKS)
def test_tasks_read_images_at_that_size(place, tmp_path, task, capsys):
    flags = [flag.format(root=place) for flag in TASKS[task]]
    data = ["--data_path", str(place / "data"), "--val", str(place / "data" / "val")]
    data += ["--device", "cpu", "--num_workers", "0", "--output_dir", str(tmp_path)]
    asked = ["--checkpoint", str(checkpoint(place)), "--input_size", *map(str, OTHER)]
    assert evaluate([task, *asked, *data, *flags]) == 0
    told = capsys.readouterr().err
    assert "made for images of 48 x 24 pixels; the file's are for 32 x 32" in told
    if flags:
        assert "made for images of 48 x 24 pixels; the file's are for 64 x 64" in told
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["input_size"] == list(OTHER)
    assert results["adapted"]["pos_embed"].startswith("made for images of 48 x 24 pixels")
    assert results["epoch"] == 4 and match_checkpoint(results, Checkpoints(place / "small")) == (
        match_checkpoint(read_origin(checkpoint(place)), Checkpoints(place / "small"))
    )


def test_a_model_of_colours_sees_gray(place, tmp_path):
    asked = ["--checkpoint", str(checkpoint(place)), "--device", "cpu", "--num_workers", "0"]
    asked += ["--data_path", str(place / "data"), "--output_dir", str(tmp_path), "--in_chans", "1"]
    assert evaluate(["finetune", *asked, "--epochs", "1", "--batch_size", "12"]) == 0
    first = load_checkpoint(tmp_path / "checkpoint-0.pth")
    assert first["model"]["patch_embed.proj.weight"].shape[1] == first["args"]["in_chans"] == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert (
        "summed for in_chans 1; the file's is for 3"
        in results["adapted"]["patch_embed.proj.weight"]
    )
    assert results["settings"]["in_chans"] == 1
    assert evaluate(["finetune", *asked, "--eval"]) == 2


def test_adapted_weights_are_recognised_as_the_files(place, tmp_path):
    """Not those of a file that has been replaced since: that has other blocks."""
    path = tmp_path / "checkpoint-last.pth"
    content = load_checkpoint(checkpoint(place))
    save_checkpoint(path, content)
    model = load_encoder(path, CPU, img_size=48)
    plain = origin_of(path, load_encoder(path, CPU))
    assert origin_of(path, model) == {**plain, "adapted": model.adapted}
    content["model"]["blocks.0.norm1.bias"] += 1
    save_checkpoint(path, content)
    origin = origin_of(path, model)
    assert origin["epoch"] is None and origin[WEIGHTS] != plain[WEIGHTS]
    fresh = load_encoder(path, CPU, img_size=48, random_init=True)
    assert "adapted" not in origin_of(path, fresh)
