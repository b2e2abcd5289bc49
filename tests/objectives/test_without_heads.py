"""i-MAE without heads, the paper's baseline (section 4.3.1), from the flag to tables and pages.

Its loss is compared with the float64 oracle in test_objectives.py.
"""

import json

import pytest
import torch
import toy_images

from fastimae import cli
from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.evaluate.candidates import load_candidates
from fastimae.interop import load_model
from fastimae.models import create_model
from fastimae.objectives.choice import run_title
from fastimae.pictures import reconstruction
from fastimae.settings import ConfigError

NANO = (
    "--synthetic --synthetic_samples 16 --num_workers 0 --model mae_vit_nano_patch16 "
    "--input_size 32 --batch_size 4 --mix_group 2 --device cpu --precision fp32 --epochs 2 "
    "--warmup_epochs 0 --lr 1e-2 --vis_freq 1 --objective imae --no_disentangle"
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function (name, flags) that trains for two epochs; it returns the checkpoint."""
    monkeypatch.setattr(reconstruction, "draw_grid", toy_images.save_gray)

    def run(name, *flags):
        folder = tmp_path / name
        assert cli.train([*NANO.split(), "--output_dir", str(folder), *flags]) == 0
        return folder / "checkpoint-last.pth"

    return run


@pytest.fixture
def teacher(tmp_path):
    """Return the path of a MAE."""
    mae = create_model("mae_vit_nano_patch16", img_size=32)
    torch.save({"model": mae.state_dict()}, tmp_path / "teacher.pth")
    return str(tmp_path / "teacher.pth")


@pytest.mark.parametrize("targets", ["both", "subordinate"])
def test_a_resumed_run_is_the_uninterrupted_one(train, teacher, targets):
    flags = ["--targets", targets, "--teacher", teacher, "--head_space", "encoder"]
    whole = train("whole", *flags)
    first = train("parts", *flags, "--save_freq", "1").with_name("checkpoint-0.pth")
    rest = train("rest", *flags, "--resume", str(first))
    one, other = (torch.load(path, weights_only=True)["model"] for path in (whole, rest))
    assert one.keys() == create_model("mae_vit_nano_patch16", img_size=32).state_dict().keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = json.loads((whole.parent / "log.txt").read_text().splitlines()[-1])
    names = ("subordinate", "dominant") if targets == "both" else (targets,)
    parts = {f"train_{kind}_{name}" for kind in ("recon", "latent") for name in names}
    assert {name for name in losses if name.startswith(("train_recon", "train_lat"))} == parts
    assert losses["train_loss"] == pytest.approx(sum(losses[name] for name in parts))


def test_tables_pages_and_exports_name_it(train, teacher, tmp_path):
    plain, distilled = train("plain"), train("distilled", "--teacher", teacher)
    assert (plain.parent / "reconstruction.png").exists()
    exported = tmp_path / "exported.pth"
    assert cli.export([str(plain), str(exported), "--to", "fastimae"]) == 0
    kinds = [c.kind for c in load_candidates([plain, distilled, exported], torch.device("cpu"))]
    words = "i-MAE without heads, not distilled"
    assert kinds == [words, words.replace("not ", ""), words]
    assert run_title(torch.load(plain, weights_only=True)["args"]) == "i-MAE without heads"
    model = load_model(plain)
    assert (model.heads, model.head_space) == (1, "decoder")
    # A MAE's run has the setting, too, and is none of these.
    assert run_title({"objective": "mae", "disentangle": True}) == "MAE"
    assert run_title({"objective": "imae"}) == "i-MAE"


def test_it_is_no_teacher(train, capsys):
    path = train("plain")
    flags = [*NANO.split(), "--output_dir", str(path.parent / "next"), "--teacher", str(path)]
    assert cli.train(flags) == 2
    assert "is an i-MAE: distillation needs a plain MAE" in capsys.readouterr().err


def test_it_starts_from_all_of_a_mae(teacher):
    config = parse_training("fastimae-train", [*NANO.split(), "--init", teacher])
    objective = build_objective(config)
    state = torch.load(teacher, weights_only=True)["model"]
    assert all(torch.equal(w, state[name]) for name, w in objective.student.state_dict().items())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            "--objective imae --head_space encoder",
            "--head_space has no effect with --no_disen",
        ),
        ("--objective mae", "--disentangle has no effect with --objective mae"),
    ],
)
def test_flags_without_an_effect_are_refused(flags, said):
    with pytest.raises(ConfigError, match=said):
        parse_training("fastimae-train", ["--synthetic", "--no_disentangle", *flags.split()])
