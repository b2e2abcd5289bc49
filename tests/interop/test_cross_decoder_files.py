"""Files of models with a decoder of cross-attention: loaded, started from, exported."""

import pytest
import torch
from tiny import predict_alike, save_run, tiny_model

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import command, load_model
from fastimae.interop.options import ExportOptions
from fastimae.interop.pretrained import load_init, load_teacher

WAYS = pytest.mark.parametrize("weighted", [False, True])


def cross(**sizes):
    return tiny_model(decoder_attention="cross", decoder_depth=2, **sizes)


@WAYS
def test_a_file_holds_the_choice(tmp_path, weighted):
    model = cross(weighted_feature_maps=weighted)
    loaded = load_model(save_run(tmp_path, model))
    assert (loaded.decoder_attention, loaded.weighted_feature_maps) == ("cross", weighted)
    assert predict_alike(model, loaded)


@WAYS
def test_our_layout_keeps_it(tmp_path, weighted):
    model, out = cross(weighted_feature_maps=weighted), tmp_path / "out.safetensors"
    options = ExportOptions(checkpoint=save_run(tmp_path, model), out=out, to="fastimae")
    command.convert(options)
    assert predict_alike(model, load_model(out))


@pytest.mark.parametrize("to", ["mae", "huggingface"])
def test_other_layouts_take_the_encoder_only(tmp_path, to):
    model = cross()
    path, out = save_run(tmp_path, model), tmp_path / ("out" if to == "huggingface" else "out.pth")
    with pytest.raises(CheckpointError, match="no other code knows: export it with --encoder_only"):
        command.convert(ExportOptions(checkpoint=path, out=out, to=to))
    command.convert(ExportOptions(checkpoint=path, out=out, to=to, encoder_only=True))
    same_features(model, load_model(out, encoder_only=True, num_heads=4))


def test_timm_takes_the_encoder(tmp_path):
    model, out = cross(), tmp_path / "out.pth"
    command.convert(ExportOptions(checkpoint=save_run(tmp_path, model), out=out, to="timm"))
    assert not any("decoder" in name for name in torch.load(out))
    same_features(model, load_model(out, encoder_only=True, num_heads=4))


def same_features(one, other):
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(one.forward_features(images), other.forward_features(images))


@WAYS
def test_init_and_teacher(tmp_path, weighted):
    model = cross(weighted_feature_maps=weighted)
    path, student = save_run(tmp_path, model), cross(weighted_feature_maps=weighted)
    load_init(student, path)
    assert predict_alike(model, student)
    teacher = load_teacher(path, tiny_model(heads=2, head_space="encoder"))
    same_features(model, teacher)
    if weighted:
        with pytest.raises(CheckpointError, match="has weighted feature maps: each of its dec"):
            load_teacher(path, tiny_model(heads=2))
    else:
        same_features(model, load_teacher(path, tiny_model(heads=2)))


def test_another_decoder_starts_fresh(tmp_path):
    path, student = save_run(tmp_path, tiny_model(decoder_depth=2)), cross()
    load_init(student, path)
    assert student.adapted["decoder"].startswith("fresh: decoder_blocks.0.attn.q.weight")
    same_features(student, load_model(path))
