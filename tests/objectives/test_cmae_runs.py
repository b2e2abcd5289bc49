"""C-MAE with all commands: what its runs learn, and what may begin from its checkpoints."""

import subprocess
import sys

import pytest
import torch
from tiny import save_run, tiny_model

from fastimae import cli
from fastimae.arguments import UsageError, parse_training
from fastimae.config import ConfigError
from fastimae.engine.checkpoint import CheckpointError, load_checkpoint
from fastimae.engine.run_file import read_run_file
from fastimae.evaluate.figures.occlusion import mask_token_in
from fastimae.interop import load_model
from fastimae.models import create_model
from fastimae.objectives import CMAE
from fastimae.objectives.settings import CMAESettings

RUN = (
    "--synthetic --synthetic_samples 8 --num_workers 0 --device cpu --precision fp32 --vis_freq 0 "
    "--model mae_vit_nano_patch8 --input_size 32 --batch_size 4 --epochs 1 --warmup_epochs 0 "
)
HEADS = "--objective cmae --proj_hidden_dim 16 --proj_dim 8 "


def train(folder, flags):
    return cli.train(f"{RUN} {flags} --output_dir {folder}".split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of C-MAE."""
    folder = tmp_path_factory.mktemp("cmae")
    assert train(folder, HEADS) == 0
    return folder / "checkpoint-last.pth"


def test_its_checkpoint_holds_an_encoder_and_beside_it_all_the_rest(run):
    content = load_checkpoint(run)
    encoder = create_model("mae_vit_nano_patch8", img_size=32, decoder=False)
    encoder.load_state_dict(content["model"])
    parts = {name.split(".")[0] for name in content["objective"]}
    assert parts == {"projector", "predictor", "mask_token", "target"}
    assert content["objective"]["mask_token.weight"].shape == (1, 1, 128)
    loaded = load_model(run, encoder_only=True)
    assert loaded.fresh_decoder and torch.equal(loaded.cls_token, content["model"]["cls_token"])
    average = load_model(run, encoder_only=True, use_ema=True)
    assert torch.equal(average.cls_token, content["objective"]["target.student.cls_token"])
    assert not torch.equal(average.cls_token, loaded.cls_token)


def test_each_encoder_has_its_own_mask_token(run, tmp_path, capsys):
    """Which is no part of it, nor of a decoder that it lacks."""
    content = load_checkpoint(run)["objective"]
    own, averaged = mask_token_in(run), mask_token_in(run, averaged=True)
    assert torch.equal(own, content["mask_token.weight"]) and not torch.equal(own, averaged)
    assert torch.equal(averaged, content["target.mask_token.weight"])
    out = tmp_path / "average.pth"
    assert cli.export([str(run), str(out), "--to", "mae", "--use_ema"]) == 0
    weights = torch.load(out)["model"]
    assert weights.keys() == load_checkpoint(run)["model"].keys()
    assert torch.equal(weights["cls_token"], content["target.student.cls_token"])
    assert "decoder is dropped" not in capsys.readouterr().err


def test_an_encoder_gives_features_and_no_pictures(run):
    with pytest.raises(CheckpointError, match="has no decoder, only an encoder"):
        load_model(run)
    assert cli.export([str(run), str(run.with_name("vit.safetensors")), "--to", "timm"]) == 0


def test_a_mae_starts_from_its_encoder_and_says_that_the_decoder_is_fresh(run, tmp_path, capsys):
    assert train(tmp_path, f"--objective mae --init {run} --lr 0 --weight_decay 0") == 0
    assert "this run's decoder starts fresh: the file has none" in capsys.readouterr().err
    (entry,) = read_run_file(tmp_path)["starts"]
    assert entry["adapted"] == {"decoder": "fresh: the file has none"}
    now = load_checkpoint(tmp_path / "checkpoint-last.pth")["model"]
    assert torch.equal(now["cls_token"], load_checkpoint(run)["model"]["cls_token"])
    assert "decoder_pred.weight" in now


@pytest.mark.parametrize("heads", [1, 2])
def test_it_starts_from_the_encoder_of_any_mae(tmp_path, heads, capsys):
    """The target model begins as a copy; nothing is said about decoders and their targets."""
    sizes = {"depth": 4, "embed_dim": 128}
    mae = tiny_model(**sizes, heads=heads, norm_pix_loss=True)
    path = save_run(tmp_path / "mae", mae)
    assert train(tmp_path / "run", f"{HEADS} --init {path} --lr 0 --weight_decay 0") == 0
    content = load_checkpoint(tmp_path / "run/checkpoint-last.pth")
    for name, value in content["model"].items():
        assert torch.equal(value, mae.state_dict()[name]), name
        assert torch.equal(content["objective"][f"target.student.{name}"], value), name
    assert "decoder" not in (told := capsys.readouterr().err) and "norm_pix" not in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--norm_pix_loss", "--norm_pix_loss has no effect with --objective cmae"),
        ("--decoder_depth 2", "--decoder_depth has no effect with --objective cmae"),
        ("--contrast byol --temperature 0.1", "--temperature has no effect with --contrast byol"),
        ("--mask_ratio 0 --second_view full", "--second_view has no effect with --mask_ratio 0"),
        ("--second_mask_ratio 0.5", "no effect without --second_view independent"),
        ("--no_encoder_mask_tokens", "use --second_view full (or --tokens cls or average)"),
        ("--no_encoder_mask_tokens --tokens both", "--tokens both with --no_encoder_mask_tokens"),
        ("--ema_momentum 1", "--ema_momentum must be between 0 and 1, not 1"),
    ],
)
def test_settings_that_cannot_work_are_one_line(flags, words):
    with pytest.raises((ConfigError, UsageError)) as error:
        parse_training("fastimae-train", f"--synthetic --objective cmae {flags}".split())
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_recipe_for_maes_goes_with_it():
    """What it sets for the decoder is dropped; jitter is on, and stays off for others."""
    command = "--synthetic --recipe mae_vit_base_occlusion --objective"
    both = [parse_training("fastimae-train", [*command.split(), name]) for name in ("cmae", "mae")]
    assert [config.model.norm_pix_loss for config in both] == [False, True]
    assert [config.objective.color_jitter for config in both] == [0.4, 0]


def test_settings_need_no_torch():
    code = "import sys, fastimae.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_jitter_colours_give_the_image_away(make_batch):
    """Section 3: views of an image share its colours, by which they are told from other images.
    Every image here is one colour with some noise."""
    losses = {}
    for strength in (0.0, 0.4):
        torch.manual_seed(0)
        student = create_model("mae_vit_nano_patch8", img_size=32, depth=1, decoder=False)
        settings = CMAESettings(proj_hidden_dim=64, proj_dim=32, color_jitter=strength)
        objective, batch = CMAE(student, settings), make_batch(16)
        batch.images[:] = batch.images // 8 + torch.randint(0, 224, (16, 1, 1, 3)).byte()
        optimizer = torch.optim.AdamW(
            [p for p in objective.parameters() if p.requires_grad], lr=1e-3
        )
        for step in range(30):
            batch.key += step
            optimizer.zero_grad()
            loss = objective(batch)["loss"]
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                objective.after_update()
        losses[strength] = loss.item()
    assert losses[0.0] < losses[0.4] - 0.5, losses  # 0.9 and 2.0 for any of five seeds
