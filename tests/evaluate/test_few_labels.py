"""Fine-tuning and linear probes with a part of the labels: which images, and resuming."""

import json

import numpy as np
import pytest
from PIL import Image
from toy_images import save_mae, save_splits

from fastimae.cli import convert, evaluate
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.evaluate.images import open_images
from fastimae.evaluate.labels.few_labels import (
    choose,
    images_of_list,
    images_of_pretraining,
    repeated,
    share_of_each_class,
)
from fastimae.loaders import create_loader
from fastimae.loaders.errors import DataError
from fastimae.loaders.settings import ChoiceSettings

pytest.importorskip("timm")

UNBALANCED = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 50, 3]))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """mae.pth, and data/train of 20 images in each of 3 classes, whose names all classes have."""
    root = tmp_path_factory.mktemp("few")
    save_mae(root / "mae.pth", depth=2)
    save_splits(root / "data", 20)
    return root


def test_the_choice_is_balanced_and_exact():
    def counts(**how):
        return np.bincount(UNBALANCED[choose(UNBALANCED, (0,), **how)]).tolist()

    assert counts(shots=5) == [5, 5, 3]
    assert counts(fraction=0.1) == [20, 5, 1]
    assert counts(fraction=0.01) == [2, 1, 1]
    assert choose(UNBALANCED, (0,), fraction=1.0).tolist() == list(range(253))
    assert len(set(choose(UNBALANCED, (0,), fraction=0.5))) == 100 + 25 + 2


def test_the_choice_follows_from_the_seed_and_the_class_alone():
    few, many = (choose(UNBALANCED, (4,), fraction=share) for share in (0.1, 0.3))
    assert set(few) < set(many)
    assert set(few) != set(choose(UNBALANCED, (5,), fraction=0.1))
    # The same images of a class, wherever those of other classes are and however many.
    alone = np.flatnonzero(UNBALANCED == 1)
    assert alone[choose(np.full(50, 1), (4,), fraction=0.1)].tolist() == [
        index for index in few if UNBALANCED[index] == 1
    ]


def test_the_chosen_images_are_a_data_set_of_their_own(root):
    images = open_images(root / "data")
    part = share_of_each_class(images, 0.15, seed=1)
    positions = choose(images.labels, (1,), fraction=0.15)
    assert len(part) == 9 and part.labels.tolist() == images.labels[positions].tolist()
    for number, index in enumerate(positions):
        assert part.path(number) == images.path(index)
        assert np.array_equal(np.asarray(part[number][0]), np.asarray(images[index][0]))
    other = share_of_each_class(images, 0.15, seed=2)
    for name in ("fingerprint", "digest", "chosen"):
        assert len({getattr(each, name) for each in (images, part, other)}) == 3


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def chosen_by(images, path, *lines):
    part = images_of_list(images, write(path, *lines))
    return ["/".join(part.path(index).split("/")[-2:]) for index in range(len(part))]


def test_a_list_names_files_or_positions(root, tmp_path):
    images, path = open_images(root / "data"), tmp_path / "some.txt"
    names = ["b_green/003.png", "a_red/011.png"]
    assert chosen_by(images, path, *names) == names[::-1]
    assert chosen_by(images, path, "# two", "", *names, names[0], "20") == [
        names[1], "b_green/000.png", names[0],
    ]  # fmt: skip
    assert chosen_by(images, path, str(root / "data/train/a_red/002.png")) == ["a_red/002.png"]


def test_simclrs_lists_are_of_plain_file_names(tmp_path):
    for name in ("n01440764", "n01443537"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in (5, 12, 40):
            Image.new("RGB", (4, 4)).save(tmp_path / "images" / name / f"{name}_{number}.JPEG")
    images = open_images(tmp_path / "images")
    some = write(tmp_path / "10percent.txt", "n01443537_5.JPEG", "n01440764_40.JPEG")
    part = images_of_list(images, some)
    assert [part.path(i).rpartition("/")[2] for i in (0, 1)] == [
        "n01440764_40.JPEG", "n01443537_5.JPEG",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["a_red/001.png", "x.png", "60"],
            "2 of its 3 entries are none of the 60 images of .*x.png",
        ),
        (["001.png", "2"], "1 of its names are those of several images .*001.png: add their folde"),
        (["", "# nothing"], "lists no images"),
        (["a\0b"], "is not a text file"),
    ],
)
def test_entries_that_are_not_one_image_are_counted(root, tmp_path, lines, said):
    path = write(tmp_path / "some.txt", *lines)
    with pytest.raises(DataError, match=f"--label_list {path}.*{said}"):
        images_of_list(open_images(root / "data"), path)


def test_a_list_that_is_missing_and_images_without_labels_are_errors(root, tmp_path):
    images = open_images(root / "data")
    with pytest.raises(DataError, match=r"--label_list .*gone\.txt cannot be read: No such file"):
        images_of_list(images, tmp_path / "gone.txt")
    with pytest.raises(DataError, match="images without labels"):
        share_of_each_class(open_images(root / "data/train/a_red"), 0.1, 0)


def test_beton_files_know_positions_alone(root, tmp_path):
    beton = tmp_path / "a.beton"
    assert convert([str(root / "data"), str(beton), "--workers", "1"]) == 0
    images = open_images(beton)
    part = images_of_list(images, write(tmp_path / "some.txt", "7", "3"))
    assert part.labels.tolist() == images.labels[[3, 7]].tolist()
    assert np.array_equal(np.asarray(part[1][0]), np.asarray(images[7][0]))
    with pytest.raises(DataError, match=r"has 1 names of files, which .* does not keep: list pos"):
        images_of_list(images, write(tmp_path / "some.txt", "a_red/001.png", "3"))


def command(root, task, *flags):
    quick = ["--num_workers", "0", "--device", "cpu", "--warmup_epochs", "0", "--batch_size", "6"]
    aug = ["--aa", "none", "--precision", "fp32"] if task == "finetune" else []
    paths = ["--checkpoint", str(root / "mae.pth"), "--data_path", str(root / "data")]
    return evaluate([task, *paths, *quick, *aug, *map(str, flags)])


@pytest.mark.parametrize("task", ["finetune", "linear"])
def test_an_epoch_is_a_pass_over_the_part_and_a_resume_keeps_to_it(root, tmp_path, capsys, task):
    folder = tmp_path / "out"
    flags = ["--output_dir", folder, "--resume", "auto", "--epochs"]
    part = ["--label_fraction", "0.2"]
    assert command(root, task, *flags, 1, *part) == 0
    content = json.loads((folder / "results.json").read_text())
    assert content["settings"]["label_fraction"] == 0.2 and content["settings"]["seed"] == 0
    assert content["numbers"]["train_images"] == 12  # two steps of six
    chosen = share_of_each_class(open_images(root / "data"), 0.2, 0).chosen
    assert content["numbers"]["labelled"] == chosen != ""
    capsys.readouterr()
    for other in (["--label_fraction", "0.3"], [*part, "--seed", "1"], []):
        assert command(root, task, *flags, 2, *other) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "--resume" in error and "learned from --label_fraction 0.2 (--seed 0)" in error
    assert command(root, task, *flags, 2, *part) == 0
    assert json.loads((folder / "results.json").read_text())["numbers"]["epochs"] == 2


def test_mistakes_are_one_line(root, tmp_path, capsys):
    for flags, said in (
        (["--label_fraction", "0.05"], "--batch_size 6 on 1 ranks does not fit 3 images"),
        (["--label_fraction", "0"], "--label_fraction must be above 0"),
        (["--label_fraction", "0.5", "--label_list", "x.txt"], "give one"),
        (["--label_fraction", "0.5", "--images_from", "one_class"], "give one"),
        (["--images", "61"], "--images 61: there are only 60 images"),
        (["--images", "9", "--epoch_samples", "8"], "--epoch_samples 8: an epoch of fine-tuning"),
        (
            ["--label_fraction", "0.5", "--eval"],
            "--label_fraction and --aa have no effect with --eval",
        ),
    ):
        assert command(root, "finetune", "--output_dir", tmp_path / "out", *flags) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_few_images_are_those_of_the_pre_training(root, tmp_path):
    """In epochs that repeat them, each as often as the next and with other augmentations."""
    part = ["--images", "2", "--images_from", "one_per_class", "--seed", "3"]
    flags = ["--output_dir", tmp_path / "run", *part, "--epochs", "1"]
    assert command(root, "finetune", *flags, "--epoch_samples", "13") == 0
    content = load_checkpoint(tmp_path / "run/checkpoint-last.pth")
    assert (content["loader"]["samples"], content["step"]) == (13, 2)
    numbers = json.loads((tmp_path / "run/results.json").read_text())["numbers"]
    choice = ChoiceSettings(images=2, images_from="one_per_class")
    few = {"images": 2, "images_from": "one_per_class", "seed": 3, "batch_size": 2}
    with create_loader(data_path=root / "data", **few) as loader:
        images = open_images(root / "data")
        assert images_of_pretraining(images, choice, 3).chosen == numbers["labelled"] != ""
        assert images.at(loader.sampler.chosen).chosen == numbers["labelled"]
    assert numbers["train_images"] == 2
    many = repeated(images.at(np.array([5, 8, 9])), 8)
    assert [many.path(i) for i in range(8)] == [images.path(i) for i in [5, 8, 9] * 2 + [5, 8]]
