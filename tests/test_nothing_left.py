"""Commands that fail before their first output leave nothing: no folder, nor the ones above it."""

import shlex

import pytest
from tiny import save_run, tiny_model
from toy_images import save_splits

pytest.importorskip("timm")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")
pytest.importorskip("piq")

from fastimae import cli
from fastimae.engine.distributed import World
from fastimae.engine.output_folders import claim_folders
from fastimae.evaluate.command import TASKS
from fastimae.folders import FolderError, new_folder

TRAIN = "train --model mae_vit_nano_patch16 --input_size 32 --batch_size 8 --num_workers 0"
FOLDERS = "--output_dir new/deep/out --log_dir new/other/log"
EVAL = "--num_workers 0 --device cpu"
OTHERS = ("study", "report", "compare", "robustness", "shapebias")
OF_CHECKPOINTS = [task for task in TASKS if task not in OTHERS]
MORE = {"separability": "--teacher mae/checkpoint-last.pth"}
FAILS = [
    f"{TRAIN} --data_path nowhere {FOLDERS}",
    f"{TRAIN} --data_path no_images {FOLDERS}",
    f"{TRAIN} --ffcv broken.pth {FOLDERS}",
    f"{TRAIN} --synthetic --synthetic_samples 4 {FOLDERS}",
    f"{TRAIN} --synthetic --synthetic_samples 16 --init broken.pth {FOLDERS}",
    f"{TRAIN} --synthetic --synthetic_samples 16 --resume broken.pth {FOLDERS}",
    f"{TRAIN} --synthetic --synthetic_samples 16 --resume nowhere.pth {FOLDERS}",
    f"{TRAIN} --synthetic --synthetic_samples 16 --mask_patch_size 7 {FOLDERS}",
    "convert nowhere new/deep/out.beton",
    "convert no_images new/deep/out.beton",
    "convert images/train new/deep/out.beton --labels nowhere",
    "export broken.pth new/deep/out.pth --to timm",
    "export broken.pth new/deep/out --to huggingface",
    "export nowhere.pth new/deep/out.pth --to timm",
    "import_ broken.pth new/deep/out.pth",
    "evaluate report --run no_images --output new/deep/page.html",
    "evaluate compare no_images nowhere --output_dir new/deep/out",
    "evaluate study same_class_ratio --data_path nowhere --output_dir new/deep/out",
    "evaluate study same_class_ratio --data_path images --output_dir new/deep/out --only x",
    f"evaluate finetune {EVAL} --checkpoint mae/checkpoint-last.pth --data_path flat {FOLDERS}",
    f"evaluate knn {EVAL} --checkpoint mae/checkpoint-last.pth --data_path flat --feature_dir new",
    *(
        f"evaluate {task} {EVAL} --classifier {file} {images} {where}"
        for task, images in (
            ("robustness", "--sets mine=images/val"),
            ("robustness", "--sets mine=no_images"),
            ("shapebias", "--data no_images"),
            ("shapebias", "--data images"),
        )
        for file, where in (
            ("broken.pth", "--output_dir new/deep/out"),
            ("mae/checkpoint-last.pth", ""),
        )
    ),
    *(
        f"evaluate {task} {EVAL} {MORE.get(task, '')} --checkpoint {checkpoint} "
        f"--data_path {images} {where}"
        for task in OF_CHECKPOINTS
        for checkpoint, images, where in (
            ("broken.pth", "images", "--output_dir new/deep/out"),
            ("broken.pth", "images", ""),
            ("mae/checkpoint-last.pth", "no_images", ""),
        )
        if task != "weights" or images == "images"
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("left")
    save_splits(root / "images", 8)
    (root / "no_images").mkdir()
    (root / "flat").mkdir()
    for split in ("train", "val"):
        (root / "flat" / split).mkdir()
        image = next((root / "images" / split).rglob("*.*"))
        (root / "flat" / split / image.name).write_bytes(image.read_bytes())
    save_run(root / "mae", tiny_model())
    (root / "broken.pth").write_text("not a checkpoint")
    return root


@pytest.mark.parametrize("command", FAILS)
def test_a_command_that_fails_leaves_nothing(root, command, monkeypatch, capsys):
    monkeypatch.chdir(root)
    before = sorted(root.rglob("*"))
    program, *arguments = shlex.split(command)
    assert getattr(cli, program)(arguments) == 2
    assert sorted(root.rglob("*")) == before, capsys.readouterr().err


def test_only_what_was_made_and_is_empty_is_removed(tmp_path):
    (tmp_path / "a").mkdir()
    with new_folder(tmp_path / "a/b/c"):
        assert (tmp_path / "a/b/c").is_dir()
    assert (tmp_path / "a").is_dir() and not (tmp_path / "a/b").exists()
    with new_folder(tmp_path / "a/b/c"):
        (tmp_path / "a/b/kept").write_text("")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["kept"]
    with pytest.raises(FolderError), new_folder(tmp_path / "x" / "y" / ("long" * 100)):
        pass
    assert not (tmp_path / "x").exists()


class Together(World):
    """Rank 1 of two processes, of which rank 0 has succeeded."""

    def any(self, flag):
        return flag


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_removes_what_it_made(tmp_path, rank):
    world = Together(rank, 2, None)
    with pytest.raises(ZeroDivisionError), claim_folders(tmp_path / "a/b", tmp_path / "c/d", world):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
