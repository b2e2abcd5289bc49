"""Tasks that are bound to fail do so before a model sees an image."""

import pytest
from tiny import save_run, tiny_model
from toy_images import save_splits

from fastimae.cli import evaluate
from fastimae.evaluate.center_batches import CenterBatches

for library in ("timm", "sklearn", "torchmetrics", "piq"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    save_splits(root / "data", 8)
    save_run(root, tiny_model())
    save_run(root / "imae", tiny_model(heads=2))
    save_run(root / "large", tiny_model(img_size=48))
    save_run(root / "gray", tiny_model(in_chans=1))
    save_run(root / "odd", tiny_model(), mask_patch_size=12)
    return root


@pytest.fixture
def nothing_is_shown(monkeypatch):
    def show(_):
        raise AssertionError("an image was shown")

    monkeypatch.setattr(CenterBatches, "__iter__", show)


TEACHER = "--teacher {}/checkpoint-last.pth"
IMAE = "--others {}/imae/checkpoint-last.pth"
MASKS = "leaves all or none of the 4 x 4 patches visible"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("linear --batch_size 512", "--batch_size 512 on 1 ranks does not fit 24 images"),
        ("linear --batch_size 9 --accum_iter 3", "with --accum_iter 3 does not fit 24 images"),
        ("linear --resume {}/gone.pth", "--resume: there is no checkpoint {}/gone.pth"),
        ("linear --resume auto --start_epoch 3", "--start_epoch has no effect with --resume"),
        ("linear --lr -1", "--lr must not be negative"),
        ("knn --batch_size 0", "--batch_size must be positive"),
        ("knn --k", "--k needs a value"),
        ("knn --k 5 0", "--k must be positive"),
        ("fewshot --c 0", "--c must be positive"),
        ("reconstruct --mask_ratios 0.5 0.99", f"--mask_ratios 0.99 {MASKS}"),
        (f"reconstruct {IMAE} --batch_size 1", "--batch_size must be 2 or more"),
        (f"reconstruct {IMAE} --samples 1", "--samples must be 2 or more"),
        ("reconstruct --samples -1", "--samples must not be negative"),
        ("reconstruct --mask_ratios 1", "--mask_ratios must be at least 0 and below 1"),
        ("reconstruct --mask_patch_size 12", "--mask_patch_size 12 is not a multiple of the patch"),
        (
            "reconstruct --mask_patch_size 24",
            "32 x 32 pixels do not consist of squares of --mask_patch_size 24",
        ),
        (
            "reconstruct --mask_patch_size 16 --mask_ratios 0.9",
            "--mask_ratios 0.9 leaves all or none of the 2 x 2 squares of 16 pixels visible",
        ),
        (
            "reconstruct --mask_patch_size 16 --mask_ratios 0",
            "--mask_patch_size has no effect with --mask_ratios 0",
        ),
        ("reconstruct --others {}/large/checkpoint-last.pth", "has another image size (48, 48)"),
        ("reconstruct --others {}/gray/checkpoint-last.pth", "has another channels (1)"),
        (
            "reconstruct --others {}/odd/checkpoint-last.pth",
            "--mask_patch_size 12 is not a multiple "
            "of the patch size 8, which it was trained with: give another",
        ),
        ("reconstruct --pictures 0", "--pictures must be positive"),
        ("tsne --samples 3", "t-SNE needs 16 images or more, not 3"),
        ("tsne --perplexity 0", "--perplexity must be positive"),
        ("attention --samples 0", "--samples must be positive"),
        (
            "mixtureprobe --mask_patch_size 16",
            "--mask_patch_size has no effect with --mask_ratio 0",
        ),
        ("mixtureprobe --mask_ratio 0.99", f"--mask_ratio 0.99 {MASKS}"),
        ("mixtureprobe --val_samples 1", "--val_samples must be 2 or more"),
        ("mixtureprobe --c 0", "--c must be positive"),
        (f"separability {TEACHER} --mask_ratio -1", f"--mask_ratio -1 {MASKS}"),
        (f"separability {TEACHER} --mask_patch_size 12", "--mask_patch_size 12 is not a multiple"),
        (f"separability {TEACHER} --val_samples 1", "--val_samples must be 2 or more"),
        (f"separability {TEACHER} --val {{}}/gone", "--val {}/gone: there is no such file"),
        (f"separability {TEACHER} --steps -1", "--steps must not be negative"),
        ("msem --recipe imae_cifar10 --epochs 0", "--epochs must be positive"),
        ("finetune --num_workers -1", "--num_workers must not be negative"),
    ],
)
def test_a_task_that_cannot_end_does_not_begin(
    given, tmp_path, nothing_is_shown, command, said, capsys
):
    task, *flags = command.format(*[given] * command.count("{}")).split()
    common = f"--checkpoint {given}/checkpoint-last.pth --data_path {given}/data --device cpu"
    workers = [] if "--num_workers" in flags else ["--num_workers", "0"]
    argv = [task, *common.split(), *workers, "--output_dir", str(tmp_path / "out"), *flags]
    assert evaluate(argv) == 2
    assert said.format(*[given] * said.count("{}")) in capsys.readouterr().err


@pytest.mark.parametrize("task", ["fewshot", "mixtureprobe"])
def test_one_class_cannot_be_told_apart(tmp_path, nothing_is_shown, task, capsys):
    save_splits(tmp_path / "data", 4)
    for split in ("train", "val"):
        for name in ("b_green", "c_blue"):
            for file in (tmp_path / "data" / split / name).iterdir():
                file.unlink()
    argv = [task, "--checkpoint", str(save_run(tmp_path, tiny_model())), "--num_workers", "0"]
    assert evaluate([*argv, "--data_path", str(tmp_path / "data"), "--device", "cpu"]) == 2
    assert "has images of one class only: this task needs two" in capsys.readouterr().err


def test_attention_of_images_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    argv = ["attention", "--checkpoint", str(save_run(tmp_path, tiny_model())), "--device", "cpu"]
    assert evaluate([*argv, "--data_path", str(tmp_path / "data")]) == 2
    assert "none of 1 images can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "evaluations.finetune.mixup=x"], "--mixup takes a number, not x"),
        (["--set", "evaluations.linear.epochs=0"], "--epochs must be positive"),
        (["--val", "gone"], "--val gone: there is no such file"),
        (["--", "--no_such_flag"], "no_such_flag"),
        (["--", "--recipe", "unknown"], "--recipe unknown is not one of"),
    ],
    ids=["value", "number", "val", "training", "recipe"],
)
def test_a_study_finds_what_its_last_cell_cannot_take(
    given, tmp_path, monkeypatch, flags, said, capsys
):
    ran = []
    monkeypatch.setattr("fastimae.evaluate.tasks.study.run_once", ran.append)
    argv = ["study", "same_class_ratio", "--data_path", str(given / "data")]
    argv += ["--output_dir", str(tmp_path / "out")]
    assert evaluate([*argv, *flags]) == 2
    assert said in capsys.readouterr().err and ran == []


@pytest.mark.parametrize("task", ["linear", "finetune", "knn", "tsne"])
def test_another_tasks_results_are_not_lost(given, task, tmp_path, capsys, nothing_is_shown):
    results = tmp_path / "results.json"
    results.write_text('{"task": "fewshot", "numbers": {}}')
    argv = [task, "--checkpoint", given / "checkpoint-last.pth", "--data_path", given / "data"]
    assert evaluate([*map(str, argv), "--device", "cpu", "--output_dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} has the results of fewshot: choose another --output_dir" in said
    assert results.read_text() == '{"task": "fewshot", "numbers": {}}'
