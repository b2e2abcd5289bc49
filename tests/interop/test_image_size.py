"""Sixteen positions are 4 x 4 patches or 2 x 8: the file, a flag or an assumption decides."""

import json
import logging

import pytest
import safetensors.torch
import torch
from toy_images import save_splits

from fastimae.cli import evaluate, export, import_
from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import load_model
from fastimae.interop.image_size import parse_size, size_text
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.kernels import Mask
from fastimae.models import create_model

NAME = "mae_vit_nano_patch8"
WIDE, SQUARE = (16, 64), (32, 32)

pytestmark = pytest.mark.usefixtures("heard")


def vit(size=WIDE, **options):
    """Build timm's model, whose positions are trained."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(2)
    net = timm.models.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=128, depth=1, num_heads=4, num_classes=0, **options
    )
    for value in net.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return net.eval()


def mae(size=WIDE, **options):
    """Build a MAE, whose positions are sines and cosines of rows and columns."""
    return create_model(NAME, img_size=size, depth=1, **options)


def save(path, net, **content):
    torch.save({"model": net.state_dict(), **content}, path)
    return path


def latents(model, images):
    mask = Mask.from_bool(torch.zeros(len(images), 16, dtype=torch.bool))
    with torch.no_grad():
        return model.encode(model.patchify(images), mask.ids_keep)


def assumptions(caplog):
    return [line for line in caplog.messages if " assumed " in line]


def test_a_square_is_assumed_with_a_line_and_changed_by_an_argument(tmp_path, caplog):
    """As a square it cannot take the images; with the right size the features are equal."""
    net, images = vit(), torch.randn(2, 3, *WIDE)
    path = save(tmp_path / "wide.pth", net)
    assert load_model(path, encoder_only=True).img_size == SQUARE
    (line,) = assumptions(caplog)
    assert "images of 32 x 32 pixels assumed from its 16 positions" in line and "img_size" in line
    model = load_model(path, encoder_only=True, img_size=WIDE)
    assert (model.img_size, model.facts["input_size"].source) == (WIDE, "flag")
    with torch.no_grad():
        expected = net.forward_features(images)
    torch.testing.assert_close(latents(model, images), expected, rtol=0, atol=2e-5)


def test_a_size_that_does_not_fit_is_another_size(tmp_path, caplog):
    path = save(tmp_path / "wide.pth", vit())
    model = load_model(path, encoder_only=True, img_size=(16, 48))
    assert model.img_size == (16, 48)
    (line,) = (line for line in caplog.messages if "resized" in line)
    assert "for images of 16 x 48 pixels; the file's are for 32 x 32, assumed from its 16" in line
    assert "fastimae-import --input_size changes that" in line
    with pytest.raises(CheckpointError, match="takes a side, or height and width, not"):
        load_model(path, encoder_only=True, img_size=(1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [WIDE, (64, 16), SQUARE, (8, 128), (24, 40)], ids=str)
def test_maes_positions_determine_the_size(tmp_path, caplog, size, dtype):
    net = mae(size).to(dtype)
    model = load_model(save(tmp_path / "mae.pth", net))
    assert model.img_size == size and model.facts["input_size"].source == "file"
    assert "pixels assumed" not in caplog.text  # nothing is assumed


def test_trained_positions_need_a_size_unless_they_are_a_square(tmp_path):
    path = save(tmp_path / "vit.pth", vit((24, 40)))
    with pytest.raises(
        CheckpointError, match=r"for 15 patches, which is not a square, .* img_size"
    ):
        load_model(path, encoder_only=True)
    with pytest.raises(CheckpointError, match="unknown: give fastimae-import --input_size"):
        load_model(path, encoder_only=True, img_size=32)
    assert load_model(path, encoder_only=True, img_size=(24, 40)).img_size == (24, 40)


@pytest.mark.parametrize(
    ("args", "size", "source"),
    [
        ({"input_size": [16, 64]}, WIDE, "file"),
        ({"input_size": 32}, SQUARE, "file"),
        ({"input_size": 224}, SQUARE, "assumed"),
        ({"model": "vit_tiny_patch8_32"}, SQUARE, "name"),
        ({"model": "vit_tiny_patch8_224"}, SQUARE, "assumed"),
    ],
    ids=["settings", "a side", "settings of another", "name", "name of another"],
)
def test_sources_of_the_size(tmp_path, args, size, source):
    model = load_model(save(tmp_path / "vit.pth", vit(), args=args), encoder_only=True)
    assert (model.img_size, model.facts["input_size"].source) == (size, source)


def test_timms_hub_folder_states_it(tmp_path, caplog):
    safetensors.torch.save_file(vit().state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_x", "pretrained_cfg": {"input_size": [3, 16, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path, encoder_only=True).img_size == WIDE
    config = {**config, "model_args": {"img_size": [64, 16]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path, encoder_only=True).img_size == (64, 16)
    assert "pixels assumed" not in caplog.text


def test_a_size_against_the_files(tmp_path, caplog, capsys):
    theirs = save(tmp_path / "theirs.pth", vit(), args={"input_size": [16, 64]})
    model = load_model(theirs, encoder_only=True, img_size=32)
    assert (
        "pos_embed resized for images of 32 x 32 pixels; the file's are for 16 x 64" in caplog.text
    )
    assert not torch.equal(model.pos_embed, vit().pos_embed)
    ours = save(tmp_path / "ours.pth", mae(), args={"num_heads": 4}, fastimae_format=2)
    assert torch.equal(load_model(ours, img_size=32).pos_embed, mae(SQUARE).pos_embed)
    for path in (ours, theirs):  # an import says what the file's size is, and may be told
        out = [str(path), str(tmp_path / "out.pth"), "--input_size", "32"]
        assert import_(out) == (2 if path == ours else 0)
    assert "trained with input_size 16 64, not 32: drop --input_size" in capsys.readouterr().err


def test_what_an_import_assumed_is_logged_again(tmp_path, caplog):
    path, out = save(tmp_path / "vit.pth", vit()), tmp_path / "ours.safetensors"
    assert import_([str(path), str(out)]) == 0
    logging.getLogger("fastimae").propagate = True  # commands switch that off
    caplog.clear()
    load_model(out, encoder_only=True)
    assert "images of 32 x 32 pixels assumed by its import" in assumptions(caplog)[0]
    flags = ["--input_size", "16", "64", "--force"]
    assert import_([str(path), str(out), *flags]) == 0
    model = load_model(out, encoder_only=True)
    assert (model.img_size, model.facts["input_size"].source) == (WIDE, "file")


def test_commands_have_the_flag(tmp_path, capsys):
    path, data = save(tmp_path / "vit.pth", vit()), tmp_path / "data"

    save_splits(data, 6)
    flags = ["--checkpoint", str(path), "--data_path", str(data), "--device", "cpu"]
    flags += ["--num_workers", "0", "--output_dir", str(tmp_path / "out")]
    assert evaluate(["tsne", *flags, "--input_size", "16", "64"]) == 0
    assert "pixels assumed" not in capsys.readouterr().err
    assert evaluate(["tsne", *flags, "--input_size", "16", "48"]) == 0
    said = capsys.readouterr().err
    assert "pos_embed resized for images of 16 x 48 pixels; the file's are for 32 x 32" in said
    assert import_([str(path), str(tmp_path / "x.pth"), "--input_size", "16", "48"]) == 2
    error = capsys.readouterr().err
    assert "positions for 16 patches, --input_size 16 48 has 12" in error
    assert evaluate(["tsne", *flags, "--input_size", "1", "2", "3"]) == 2
    assert "--input_size takes a side, or height and width" in capsys.readouterr().err
    assert export([str(path), str(tmp_path / "hf"), "--to", "huggingface",
                   "--input_size", "16", "64"]) == 2  # fmt: skip
    assert "not square" in capsys.readouterr().err


def test_fine_tuning_has_a_flag_of_that_name_for_something_else(tmp_path, capsys):
    path = save(tmp_path / "vit.pth", vit((24, 40)))
    flags = ["finetune", "--checkpoint", str(path), "--data_path", str(tmp_path), "--device", "cpu"]
    assert evaluate([*flags, "--input_size", "24", "40"]) == 2
    assert "give fastimae-import --input_size" in capsys.readouterr().err


@pytest.mark.parametrize("load", [load_init, load_teacher], ids=["init", "teacher"])
def test_training_follows_the_arrangement_of_positions(tmp_path, caplog, load):
    """The number is the same, so the shapes fit, but positions of another arrangement are wrong."""

    def into(student, path):
        if load is load_teacher:
            return load(path, student)
        load(student, path)
        return student

    heads = 1 if load is load_init else 2
    path = save(tmp_path / "mae.pth", mae(WIDE))
    model = into(mae(SQUARE, heads=heads), path)
    assert torch.equal(model.pos_embed, mae(SQUARE).pos_embed)
    assert "made for images of 32 x 32 pixels; the file's are for 16 x 64" in caplog.text
    caplog.clear()
    into(mae(WIDE, heads=heads), path)
    assert "arrangement" not in caplog.text and "made" not in caplog.text
    open_ = mae(WIDE)
    open_.pos_embed.data.normal_()
    save(path, open_)
    into(mae(WIDE, heads=heads), path)
    assert (
        "does not state the arrangement of its positions: assumed as this run's, 16 x 64 pixels"
        in caplog.text
    )
    caplog.clear()
    into(mae(SQUARE, heads=heads), path)
    assert "arrangement" not in caplog.text  # the usual square is not worth a line


def test_sizes_are_read_and_written_as_flags_take_them():
    assert parse_size(32) == parse_size([32]) == parse_size((32, 32)) == SQUARE
    assert [parse_size(odd) for odd in (None, [], [1, 2, 3], 0, [-1], "32", [1.5])] == [None] * 7
    assert (size_text(SQUARE), size_text(WIDE)) == ("32", "16 64")
