"""Checkpoints and models are checked first: before data, processes, memory or measurements."""

import functools
import re
import shlex

import pytest
import torch
from tiny import save_run, tiny_model
from toy_images import save_gray, save_splits
from toy_trainer import trainer

pytest.importorskip("timm")
pytest.importorskip("sklearn")

from fastimae import build, cli
from fastimae.engine import peak
from fastimae.engine.resume import STATE
from fastimae.evaluate.options import base
from fastimae.interop import pretrained
from fastimae.loaders import BetonReader
from fastimae.pictures import reconstruction

SIZES = (
    "--model mae_vit_nano_patch8 --input_size 32 --batch_size 32 --device cpu --epochs 1 "
    "--warmup_epochs 0 --num_workers 0"
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return paths by name: runs of MAE and i-MAE, weights alone, images, a damaged file."""
    root = tmp_path_factory.mktemp("places")
    save_splits(root / "images", 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reconstruction, "draw_grid", save_gray)
        for objective in ("mae", "imae"):
            flags = f"--objective {objective} --synthetic --synthetic_samples 32"
            argv = f"{SIZES} {flags} --output_dir {root / objective}".split()
            assert cli.train(argv) == 0
    runs = {name: root / name / "checkpoint-last.pth" for name in ("mae", "imae")}
    weights = save_run(root / "weights", tiny_model())
    (root / "bad.pth").write_bytes(b"PK no checkpoint")
    (root / "data").mkdir()
    return {"root": root, **runs, "weights": weights, "images": root / "images"}


@pytest.fixture
def nothing_else(monkeypatch):
    """Make everything that comes after the checks fail the test."""

    def boom(*args, **_):
        raise AssertionError(f"this was to come later: {args}")

    for module, name in (
        (build, "build_loader"),
        (build, "build_trainer"),
        (peak, "peak_rate"),
        (BetonReader, "__init__"),
        (base.EvalOptions, "_open"),
        (torch.distributed, "init_process_group"),
    ):
        monkeypatch.setattr(module, name, boom)


REFUSED = {
    "no such file": ("--resume {root}/no.pth", "there is no checkpoint {root}/no.pth"),
    "a folder": ("--resume {root}/mae", "is a folder: name a checkpoint in it"),
    "damaged": ("--resume {root}/bad.pth", "{root}/bad.pth is not a checkpoint"),
    "another kind": ("--resume {imae}", "--resume {imae} is an i-MAE, and this run trains a MAE"),
    "no heads": (
        "--objective imae --no_disentangle --resume {mae}",
        "--resume {mae} is a MAE, and this run trains an i-MAE without heads",
    ),
    "weights alone": ("--resume {weights}", "is a MAE of FastIMAE and not a run to resume"),
    "another size": ("--resume {mae} --input_size 64", "{mae} is of another size"),
    "another depth": ("--resume {mae} --model mae_vit_tiny_patch8", "MAE with other parts"),
    "auto": ("--resume auto --output_dir {root}/imae", "is an i-MAE, and this run trains a MAE"),
    "no init": ("--init {root}/no.pth", "there is no checkpoint {root}/no.pth"),
    "damaged init": ("--init {root}/bad.pth", "{root}/bad.pth is not a checkpoint"),
    "init of another patch size": (
        "--init {mae} --model mae_vit_nano_patch16",
        "{mae} is of another size: patch_embed",
    ),
    "no teacher": ("--objective imae --teacher {root}/no.pth", "there is no checkpoint"),
    "an i-MAE as teacher": ("--objective imae --teacher {imae}", "--teacher {imae} is an i-MAE"),
    "a teacher of another patch size": (
        "--objective imae --teacher {mae} --model mae_vit_nano_patch16",
        "--teacher has a different patch size (8) than --model (16)",
    ),
    "no such model": ("--model mae_vit_bsae_patch8", "did you mean mae_vit_base_patch8?"),
    "sizes that do not fit": ("--num_heads 7", "is not a multiple of num_heads 7"),
    "a user's objective": ("--objective slow_teacher:SlowTeacher --init {root}/no.pth", "no check"),
}


def flags_with(changes):
    """Return SIZES and changes; a flag in both is as in the changes."""
    changed = set(re.findall(r"--\w+", changes))
    kept = [pair for pair in re.findall(r"--\w+ \S+", SIZES) if pair.split()[0] not in changed]
    return f"{' '.join(kept)} {changes}"


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize("case", REFUSED)
def test_training_looks_at_checkpoints_first(places, case, capsys):
    flags, said = (text.format(**places) for text in REFUSED[case])
    assert cli.train(shlex.split(f"--data_path {places['root']}/none {flags_with(flags)}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastimae-train: error: ") and said in line


GOOD = {
    "resume": "--resume {mae} --epochs 2",
    "init": "--init {mae}",
    "init of an i-MAE": "--objective imae --init {imae}",
    "init of another size": "--init {mae} --input_size 64",
    "a teacher of another size": "--objective imae --teacher {mae} --input_size 64",
    "teacher": "--objective imae --teacher {mae}",
    "resume with a teacher": "--objective imae --teacher {mae} --resume {imae} --epochs 2",
}


@pytest.mark.parametrize("case", GOOD)
def test_files_that_fit_reach_the_data_without_a_line_or_memory(places, case, capsys, monkeypatch):
    """Nothing of what is checked is logged: it would be logged twice."""
    made = []

    def watched(make, *args, **sizes):
        made.append(make(*args, **sizes))
        return made[-1]

    for module, name in ((build, "create_model"), (pretrained, "build")):
        monkeypatch.setattr(module, name, functools.partial(watched, getattr(module, name)))
    flags = flags_with(GOOD[case].format(**places))
    out = places["root"] / "data" / "out"
    assert cli.train(shlex.split(f"--data_path {out}/no {flags} --output_dir {out}")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no such folder" in line
    assert made and {p.device.type for model in made for p in model.parameters()} == {"meta"}


EVALUATIONS = {
    "linear --checkpoint {root}/bad.pth": "{root}/bad.pth is not a checkpoint",
    "linear --checkpoint {mae} --resume {imae}": "{imae} is an i-MAE, and this run trains a lin",
    "linear --checkpoint {mae} --resume {root}/bad.pth": "{root}/bad.pth is not a checkpoint",
    "finetune --checkpoint {mae} --resume {imae}": "{imae} is an i-MAE, and this run trains a cl",
    "finetune --checkpoint {root}/bad.pth": "{root}/bad.pth is not a checkpoint",
    "knn --checkpoint {root}/bad.pth": "{root}/bad.pth is not a checkpoint",
    "msem --checkpoint {root}/bad.pth --recipe imae_vit_base": "{root}/bad.pth is not a checkpoint",
    "mixtureprobe --checkpoint {imae} --others {root}/bad.pth": "{root}/bad.pth is not a check",
    "separability --checkpoint {imae} --teacher {root}/bad.pth": "{root}/bad.pth is not a check",
    "finetune --eval --resume {mae}": "{mae}",
}


@pytest.mark.usefixtures("nothing_else")
@pytest.mark.parametrize("command", EVALUATIONS)
def test_evaluation_looks_at_checkpoints_before_images(places, command, capsys, tmp_path):
    flags = f"--device cpu --num_workers 0 --data_path {places['images']} --output_dir {tmp_path}"
    assert cli.evaluate(shlex.split(f"{command.format(**places)} {flags}")) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert EVALUATIONS[command].format(**places) in line


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--model mae_vit_bsae_patch8", "--model mae_vit_bsae_patch8 is not known: did you mean"),
        ("--input_size 100", "--input_size 100x100 is not a multiple of the patch size 16"),
    ],
)
def test_the_benchmark_refuses_a_model_before_it_measures(flags, said, capsys, monkeypatch):
    for name in ("loader_speed", "step_speed"):
        monkeypatch.setattr(f"fastimae.bench.command.{name}", None)
    assert cli.bench(["--device", "cpu", *flags.split()]) == 2
    assert said in capsys.readouterr().err


def test_runs_save_all_that_resuming_asks_for(tmp_path):
    assert trainer(tmp_path).state_dict().keys() == STATE
