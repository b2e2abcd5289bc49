"""Pixio: transformers' PixioModel and ours compute the same, whichever the weights come from."""

import functools
import json

import pytest
import timm
import torch
from tiny import HEADS, save_run, tiny_model
from transformers import AutoImageProcessor, AutoModel, PixioConfig, PixioModel

from fastimae.cli import export, import_
from fastimae.engine.checkpoint import CheckpointError
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.finetuning.classifier import build_classifier
from fastimae.interop import load_model
from fastimae.interop.pretrained import load_init

COUNT = 3
CLOSE = {"rtol": 0, "atol": 1e-5}


def randomised(net):
    """Give every parameter a value of its own, positions of class tokens, too."""
    for parameter in net.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return net.eval()


@pytest.fixture
def hub(tmp_path):
    """Write a Pixio of random weights as transformers does; return it and its folder."""
    config = PixioConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8,
        n_cls_tokens=COUNT, drop_path_rate=0.1,
    )  # fmt: skip
    pixio = randomised(PixioModel(config))
    pixio.save_pretrained(tmp_path / "pixio")
    return pixio, tmp_path / "pixio"


def check_equal(ours, theirs):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs(pixel_values=images)
        tokens, cls = (ours.forward_features(images, pool) for pool in ("tokens", "cls"))
    torch.testing.assert_close(tokens, wanted.last_hidden_state, **CLOSE)
    torch.testing.assert_close(cls, wanted.pooler_output, **CLOSE)


@pytest.mark.parametrize("names", ["files", "memory"])
def test_their_weights_here(hub, tmp_path, names):
    pixio, folder = hub
    path = folder
    if names == "memory":
        path = tmp_path / "pixio.pth"
        torch.save(pixio.state_dict(), path)
    flags = {} if names == "files" else {"num_heads": 4}
    ours = load_model(path, encoder_only=True, **flags)
    assert ours.class_tokens == COUNT and ours.img_size == (32, 32)
    assert torch.equal(ours.pos_embed, pixio.embeddings.position_embeddings)
    check_equal(ours, pixio)


def test_our_weights_there(tmp_path):
    model = randomised(tiny_model(class_tokens=COUNT))
    path = save_run(tmp_path / "run", model, class_tokens=COUNT)
    export([str(path), str(tmp_path / "out"), "--to", "huggingface"])
    theirs = AutoModel.from_pretrained(tmp_path / "out")
    assert type(theirs) is PixioModel
    check_equal(model, theirs.eval())
    check_equal(load_model(tmp_path / "out", encoder_only=True), theirs)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert list(processor.image_mean) == list(model.mean)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_cls_tokens"] == COUNT and config["num_attention_heads"] == HEADS


def test_an_import_goes_on_in_training(hub, tmp_path):
    pixio, folder = hub
    import_([str(folder), str(tmp_path / "ours.pth"), "--encoder_only"])
    student = tiny_model(class_tokens=COUNT)
    load_init(student, tmp_path / "ours.pth", allow_partial=True)
    check_equal(student, pixio)
    with pytest.raises(CheckpointError, match=r"has 3 class tokens, this model has 1: .*3"):
        load_init(tiny_model(), folder, allow_partial=True)


def timms(**options):
    return randomised(
        timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=HEADS, num_classes=0,
            reg_tokens=COUNT - 1, norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6),
            **options,
        )
    )  # fmt: skip


def test_several_class_tokens_are_timms_registers(tmp_path):
    model = randomised(tiny_model(class_tokens=COUNT))
    path = save_run(tmp_path / "run", model, class_tokens=COUNT)
    export([str(path), str(tmp_path / "timm.pth"), "--to", "timm"])
    theirs = timms()
    theirs.load_state_dict(torch.load(tmp_path / "timm.pth", weights_only=True))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = theirs.eval().forward_features(images)
        torch.testing.assert_close(model.forward_features(images), wanted, **CLOSE)


@pytest.mark.usefixtures("heard")
def test_timms_registers_are_class_tokens(tmp_path, caplog):
    theirs, path, images = timms(), tmp_path / "timm.pth", torch.randn(2, 3, 32, 32)
    torch.save(theirs.state_dict(), path)
    read = load_model(path, encoder_only=True, num_heads=HEADS)
    assert "filled cls_token with its reg_token" in caplog.text
    student = tiny_model(class_tokens=COUNT)
    load_init(student, path)
    arguments = [str(path), str(tmp_path / "ours.pth"), "--num_heads", str(HEADS)]
    assert import_([*arguments, "--encoder_only"]) == 0
    with torch.no_grad():
        wanted = theirs.forward_features(images)
        for ours in (student, read, load_model(tmp_path / "ours.pth", encoder_only=True)):
            torch.testing.assert_close(ours.forward_features(images), wanted, **CLOSE)


def test_registers_without_positions_are_refused(tmp_path):
    torch.save(timms(no_embed_class=True).state_dict(), tmp_path / "timm.pth")
    with pytest.raises(CheckpointError, match="16 positions without a class token's"):
        load_model(tmp_path / "timm.pth", encoder_only=True, num_heads=HEADS)


def test_a_classifier_of_the_patches_is_fine_tuned_and_read_again(tmp_path):
    model = randomised(tiny_model(class_tokens=COUNT))
    student = randomised(build_classifier(model, 5, global_pool=True))
    groups = encoder_groups(student, weight_decay=0.1, layer_decay=0.5)
    (group,) = (g for g in groups if any(p is student.reg_token for p in g["params"]))
    assert group["weight_decay"] == 0 and any(p is student.cls_token for p in group["params"])
    larger = build_classifier(model, 5, global_pool=True, img_size=(64, 32))
    assert torch.equal(larger.pos_embed[:, :COUNT], model.pos_embed[:, :COUNT])
    path = save_run(tmp_path / "run", model, class_tokens=COUNT)
    content = torch.load(path, weights_only=True) | {"model": student.state_dict()}
    torch.save(content, path)
    again, images = load_model(path, encoder_only=True), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = student.head(again.forward_features(images, "mean"))
        torch.testing.assert_close(logits, student(images), **CLOSE)
    with pytest.raises(ValueError, match="classifies one class token, this model has 3"):
        build_classifier(model, 5, global_pool=False)


@pytest.mark.parametrize(
    ("sizes", "why"),
    [({"img_size": (32, 64)}, "not square"), ({"mlp_ratio": 2.5}, "no multiple of the encoder's")],
)
def test_what_pixio_cannot_hold(tmp_path, caplog, capsys, sizes, why):
    path = save_run(tmp_path / "run", tiny_model(class_tokens=COUNT, **sizes), class_tokens=COUNT)
    assert export([str(path), str(tmp_path / "out"), "--to", "huggingface"]) == 2
    assert why in caplog.text + capsys.readouterr().err
    assert not (tmp_path / "out" / "model.safetensors").exists()
