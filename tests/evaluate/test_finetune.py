"""Fine-tuning: reproducible batches, runs that resume, and their accuracy."""

import json
import os
import signal

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from PIL import Image
from toy_images import save_colours, save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.engine.blocks import compile_blocks
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.distributed import World
from fastimae.evaluate.images import open_images
from fastimae.loaders.errors import DataError
from fastimae.settings import ConfigError

pytest.importorskip("timm")
from timm.models import VisionTransformer

from fastimae.evaluate.features import load_encoder
from fastimae.evaluate.finetuning import training
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.labels.validation import validate
from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.evaluate.tasks import finetune

CPU = torch.device("cpu")
COLOURS = ["--reprob", "0", "--aa", "none", "--min_crop", "0.7", "--smoothing", "0"]
BASE = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32"]
QUICK = [*BASE, "--batch_size", "12"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a checkpoint and data of three classes; and the command's options for them."""
    root = tmp_path_factory.mktemp("toy")
    save_mae(root / "mae.pth", depth=2)
    save_splits(root / "data", 8)
    return root, ["--checkpoint", str(root / "mae.pth"), "--data_path", str(root / "data"), *QUICK]


def run(toy, name, *flags):
    root, options = toy
    flags = [*map(str, flags), "--output_dir", str(root / name)]
    assert evaluate(["finetune", *usual(options, flags), *flags]) == 0
    return root / name


def usual(options, flags):
    """Parse options; the batch size comes last, unless the flags have one."""
    return options[: options.index("--batch_size")] if "--batch_size" in flags else options


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def test_it_learns_and_its_best_can_be_tested_again(toy):
    flags = ["--epochs", 8, "--warmup_epochs", 1, "--lr", 2e-3, "--layer_decay", 0.9, *COLOURS]
    folder = run(toy, "learns", *flags)
    numbers, lines = numbers_of(folder), lines_of(folder)
    assert numbers["acc1"] > 90 and numbers["acc5"] == 100 and numbers["classes"] == 3
    assert numbers["acc1"] == lines[-1]["test_acc1"] and len(lines) == numbers["epochs"] == 8
    assert lines[0]["train_loss"] == pytest.approx(np.log(3), abs=0.1)  # equal logits at first
    assert lines[-1]["train_loss"] < 0.3 and lines[-1]["bad_samples"] == 0
    (log,) = folder.glob("log.txt")
    before = log.read_text()
    again = run(toy, "learns", "--eval")
    assert numbers_of(again / "eval")["acc1"] == numbers["best_acc1"]
    assert numbers_of(again) == numbers
    assert log.read_text() == before
    best = load_checkpoint(folder / "checkpoint-best.pth")
    assert best["metrics"]["test_acc1"] == numbers["best_acc1"]
    assert best["args"]["input_size"] == [32, 32] and best["args"]["nb_classes"] == 3


def test_a_stopped_run_goes_on_as_if_it_had_not_been(toy, monkeypatch):
    flags = ["--epochs", 2, "--warmup_epochs", 1, "--mixup", 0.8, "--cutmix", 1.0, "--log_steps", 1]
    flags += ["--drop_path", 0.5, "--cls_token"]
    whole = run(toy, "whole", *flags)
    for name, stop in (("within", 3), ("between", 2)):  # two steps an epoch
        with monkeypatch.context() as patch:
            calls, real = [], Classification.forward

            def forward(self, batch, calls=calls, stop=stop, real=real):
                calls.append(1)
                if len(calls) == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                return real(self, batch)

            patch.setattr(Classification, "forward", forward)
            folder = run(toy, name, *flags, "--resume", "auto")
            assert len(calls) == stop and not (folder / "results.json").exists()
        run(toy, name, *flags, "--resume", "auto")
        a, b = (load_checkpoint(path / "checkpoint-last.pth") for path in (whole, folder))
        assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
        assert a["loader"] == b["loader"] and a["epoch"] == 1
        assert numbers_of(folder) == numbers_of(whole)
        losses = [[line["train_loss"] for line in lines_of(path)] for path in (whole, folder)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)


@pytest.fixture(scope="module")
def short(toy):
    """The folder of a run of one epoch."""
    return run(toy, "short", "--epochs", 1, *COLOURS)


def test_a_classifier_is_tested_on_classes_it_knows(toy, short, tmp_path, capsys):
    _, options = toy
    for name in "abcd":
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "x.png")
    flags = ["--eval", "--output_dir", str(short), "--val", str(tmp_path)]
    assert evaluate(["finetune", *options, *flags]) == 2
    assert "training does not know: a, b, c, d (it knows 3: a_red," in capsys.readouterr().err
    mae = ["--eval", "--resume", options[1]]
    assert evaluate(["finetune", *options, *mae]) == 2
    assert "is not a classifier" in capsys.readouterr().err


def loader(toy, *, workers=0, world=None, batch_size=12, images=None, **changes):
    root, _ = toy
    options = FinetuneOptions(
        checkpoint=root / "mae.pth", num_workers=workers, batch_size=batch_size, seed=3, **changes
    )
    encoder = load_encoder(root / "mae.pth", CPU)
    student = training.classifier_of(options, encoder, 3, global_pool=options.pools)
    images = images or open_images(root / "data")
    return training.build_loader(options, images, encoder, student, world or World(0, 1, CPU))


def test_batches_are_a_function_of_seed_and_epoch(toy):
    shown = {}
    for workers in (0, 2):
        batches = loader(toy, workers=workers, mixup=0.8, cutmix=1.0)
        state = torch.get_rng_state()
        for epoch in (0, 1):
            batches.set_epoch(epoch)
            shown[workers, epoch] = list(batches)
        assert torch.equal(torch.get_rng_state(), state)
    for epoch in (0, 1):
        for a, b in zip(shown[0, epoch], shown[2, epoch], strict=True):
            assert torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets)
            assert torch.equal(a.index, b.index)
    orders = [torch.cat([batch.index for batch in shown[0, epoch]]) for epoch in (0, 1)]
    assert orders[0].sort().values.tolist() == list(range(24))
    assert not torch.equal(*orders)
    by_sample = [dict(zip(order.tolist(), range(24), strict=True)) for order in orders]
    views = [torch.cat([batch.inputs for batch in shown[0, epoch]]) for epoch in (0, 1)]
    assert not torch.equal(views[0][by_sample[0][5]], views[1][by_sample[1][5]])


def test_ranks_show_what_one_would(toy):
    (whole, second) = loader(toy, batch_size=12)
    ranks = [list(loader(toy, batch_size=6, world=World(rank, 2, CPU))) for rank in (0, 1)]
    for number, batch in enumerate((whole, second)):
        parts = [rank[number] for rank in ranks]
        assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
        assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


def test_labels_are_mixed_as_the_images_are(toy):
    root, _ = toy
    labels = torch.from_numpy(open_images(root / "data").labels)
    plain = next(iter(loader(toy)))
    assert torch.equal(plain.targets, labels[plain.index])
    mixed = next(iter(loader(toy, mixup=0.8, smoothing=0.0)))
    assert torch.equal(mixed.index, plain.index)
    own, other = labels[mixed.index], labels[mixed.index.flip(0)]
    hot = torch.nn.functional.one_hot
    share = mixed.targets[own != other].gather(1, own[own != other, None]).mean()
    torch.testing.assert_close(mixed.targets, share * hot(own, 3) + (1 - share) * hot(other, 3))
    expected = share * plain.inputs + (1 - share) * plain.inputs.flip(0)
    torch.testing.assert_close(mixed.inputs, expected)


def test_broken_images_are_replaced_and_counted(tmp_path, toy):
    root = save_colours(tmp_path / "images", 4)
    (root / "b_green" / "001.png").write_bytes(b"no image")
    batches = loader(toy, batch_size=6, images=open_images(root))
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == [0, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11]
    assert batches.report() == {"bad_samples": 1}
    for file in root.rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="10 images from"):
        next(iter(loader(toy, batch_size=6, images=open_images(root))))
    with pytest.raises(ConfigError, match="--batch_size 13 on 1 ranks does not fit 12 images"):
        loader(toy, batch_size=13, images=open_images(root))


def test_other_batches_go_on_where_an_epoch_stood(toy):
    batches = loader(toy, batch_size=12)
    next(iter(batches))
    state = batches.state_dict()
    halves = loader(toy, batch_size=6)
    halves.load_state_dict(state)
    rest = torch.cat([batch.index for batch in halves])
    assert torch.equal(rest, next(iter(batches)).index)
    eights = loader(toy, batch_size=8)
    eights.load_state_dict(state)
    again = torch.cat([batch.index for batch in eights])
    assert torch.equal(again[4:], rest) and len(again) == 16


def test_broken_images_stay_counted_after_a_resume(tmp_path, toy):
    root = save_colours(tmp_path / "images", 4)
    (root / "b_green" / "001.png").write_bytes(b"no image")
    batches = loader(toy, batch_size=6, images=open_images(root))
    list(batches)
    resumed = loader(toy, batch_size=6, images=open_images(root))
    resumed.load_state_dict(batches.state_dict())
    assert resumed.report() == batches.report() == {"bad_samples": 1}


def train_without_end(toy, tmp_path, monkeypatch, *flags):
    """Kill a run of 3 epochs in the third, and return its folder."""
    real = Classification.forward
    calls = iter(range(5))  # two steps an epoch

    def forward(self, batch):
        if next(calls, None) is None:
            raise MemoryError
        return real(self, batch)

    _, options = toy
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Classification, "forward", forward)
        flags = ["--epochs", 3, "--save_steps", 1, "--output_dir", tmp_path / "run", *flags]
        evaluate(["finetune", *options, *map(str, flags)])
    return tmp_path / "run"


def test_another_accumulation_goes_on_within_an_epoch(toy, tmp_path, monkeypatch):
    folder = train_without_end(toy, tmp_path, monkeypatch)
    flags = ["--epochs", 3, "--resume", "auto"]
    run(toy, folder, *flags, "--batch_size", 4, "--accum_iter", 4)
    assert [line["epoch"] for line in lines_of(folder)] == [0, 1, 2]
    last = load_checkpoint(folder / "checkpoint-last.pth")
    assert (last["epoch"], last["step"]) == (2, 1) and last["loader"]["finished"]
    results = (folder / "results.json").read_bytes()
    kept = {path: path.read_bytes() for path in folder.glob("*.pth")}
    run(toy, folder, *flags, "--batch_size", 6)
    assert json.loads(results)["numbers"] == numbers_of(folder)
    assert kept == {path: path.read_bytes() for path in folder.glob("*.pth")}
    assert len(lines_of(folder)) == 3


def test_the_kept_best_is_of_the_run_that_goes_on(toy, tmp_path, capsys):
    """A later epoch's best is not tested after the run went back to an earlier epoch."""
    folder = run(toy, tmp_path / "run", "--epochs", 2, "--save_freq", 1)
    best = load_checkpoint(folder / "checkpoint-best.pth")
    best["metrics"] = {**best["metrics"], "epoch": 9, "test_acc1": 101.0}
    torch.save(best, folder / "checkpoint-best.pth")
    run(toy, folder, "--epochs", 2, "--resume", folder / "checkpoint-0.pth")
    assert "checkpoint-best.pth is not of epoch 0" in capsys.readouterr().err
    kept = load_checkpoint(folder / "checkpoint-best.pth")
    assert kept["epoch"] == 1 and numbers_of(folder)["best_epoch"] == 1
    assert kept["metrics"]["test_acc1"] == numbers_of(folder)["best_acc1"]


def test_a_finished_run_keeps_the_settings_of_its_numbers(toy, capsys):
    flags = ["--epochs", 1, "--resume", "auto"]
    folder = run(toy, "kept", *flags)
    first = json.loads((folder / "results.json").read_text())
    run(toy, "kept", *flags, "--layer_decay", 0.5, "--mixup", 0.8, "--min_crop", 0.3)
    again = json.loads((folder / "results.json").read_text())
    assert {**again, "date": first["date"]} == first
    assert "keeps its settings: --layer_decay 0.75 -> 0.5, --min_crop" in capsys.readouterr().err
    _, options = toy
    whole = ["--crop", "none", "--output_dir", str(folder), *map(str, flags)]
    assert evaluate(["finetune", *options, *whole]) == 2  # as it changes the test images
    assert "are not of these images (--crop random -> none)" in capsys.readouterr().err
    run(toy, "kept", "--resume", "auto", "--layer_decay", 0.5, "--epochs", 2)
    assert json.loads((folder / "results.json").read_text())["settings"]["layer_decay"] == 0.5


@pytest.mark.parametrize("task", ["finetune", "linear"])
def test_files_of_another_kind_are_named_with_the_flag_that_takes_them(
    toy, short, tmp_path, capsys, task
):
    root, options = toy
    probe = tmp_path / "probe.pth"
    torch.save({"model": {"0.running_mean": torch.zeros(3)}}, probe)
    mine = {"finetune": "a classifier", "linear": "a linear probe"}[task]
    says = {
        root / "mae.pth": f"is a MAE, and this run trains {mine}: --checkpoint {root / 'mae.pth'} ",
        probe: "is a linear probe",
        short / "checkpoint-best.pth": "is a classifier",
    }
    for path, expected in says.items():
        flags = ["--resume", str(path), "--output_dir", str(tmp_path / "out"), "--epochs", "1"]
        options = [*options[:4], "--device", "cpu", "--batch_size", "12", "--num_workers", "0"]
        assert evaluate([task, *options, *flags]) == 2
        (line,) = [s for s in capsys.readouterr().err.splitlines() if "error:" in s]
        assert f"--resume {path} {expected}" in line


def test_gray_images_and_another_size(tmp_path):
    save_mae(tmp_path / "mae.pth", in_chans=1, depth=1)
    for split in ("train", "val"):
        for label, colour in enumerate((30, 220)):
            folder = tmp_path / "data" / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("L", (50, 40), colour + number).save(folder / f"{number}.png")
    command = ["--checkpoint", str(tmp_path / "mae.pth"), "--data_path", str(tmp_path / "data")]
    command += [*BASE, "--batch_size", "4", "--input_size", "40", "48", "--warmup_epochs", "1"]
    assert evaluate(["finetune", *command, "--epochs", "6", "--lr", "2e-3", *COLOURS]) == 0
    assert numbers_of(tmp_path / "eval-finetune")["acc1"] == 100
    kept = load_checkpoint(tmp_path / "eval-finetune" / "checkpoint-last.pth")
    assert kept["model"]["pos_embed"].shape == (1, 31, 128) and kept["args"]["in_chans"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mixup", "0.8", "--batch_size", "7"], "make --batch_size even"),
        (["--color_jitter", "0.4"], "add --aa none"),
        (["--layer_decay", "0"], "--layer_decay must be above 0 and at most 1, not 0.0"),
        (["--min_crop", "2"], "--min_crop must be above 0 and at most 1, not 2.0"),
        (["--nb_classes", "2"], "--nb_classes 2 is too few: the labels have 3"),
        (["--eval", "--output_dir", "{}/nothing"], "there is no checkpoint"),
        (["--recipe", "mae_vit_giant"], "is not one of those in --help"),
        (["--input_size", "8", "8", "8"], "--input_size takes a side, or height and width"),
        (["--input_size", "30"], "--input_size 30x30 is not a multiple of the patch size 8"),
        (["--accum_iter", "3"], "--batch_size 12 on 1 ranks with --accum_iter 3 does not fit 24"),
        (["--start_epoch", "50"], "--start_epoch 50 is not below --epochs 50"),
    ],
)
def test_settings_that_cannot_work_are_named(toy, capsys, tmp_path, flags, message):
    _, options = toy
    options = usual(options, flags)
    assert evaluate(["finetune", *options, *(flag.format(tmp_path) for flag in flags)]) == 2
    assert message in capsys.readouterr().err


def test_recipes_are_defaults_that_flags_win_over(toy, monkeypatch):
    seen = []
    monkeypatch.setattr(finetune, "run", seen.append)
    _, options = toy
    flags = ["--recipe", "mae_vit_large", "--mixup", "0.5"]
    assert evaluate(["finetune", *options[:4], *flags]) == 0
    (chosen,) = seen
    assert (chosen.layer_decay, chosen.drop_path, chosen.epochs) == (0.75, 0.2, 50)
    assert (chosen.mixup, chosen.cutmix, chosen.batch_size) == (0.5, 1.0, 64)
    assert chosen.checkpoint.name == "mae.pth"


def test_to_validate_nothing_is_compiled():
    """Dropped paths differ from block to block: another kind of batch would be too much for torch
    in a ViT-L."""
    counter = torch._dynamo.testing.CompileCounter()
    student = VisionTransformer(
        img_size=32, embed_dim=8, depth=3, num_heads=2, num_classes=2, drop_path_rate=0.2
    )
    compile_blocks(student, counter)
    batch = torch.randn(2, 3, 32, 32)
    validate(student, [(batch, torch.tensor([0, 1]))], World(0, 1, torch.device("cpu")), "fp32")
    assert counter.frame_count == 0
    student.train()(batch)
    assert counter.frame_count == 3
