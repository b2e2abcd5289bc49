"""Settings that a file does not state: their sources, what is assumed, and that it is logged."""

import json
import logging

import pytest
import safetensors.torch
import torch
from tiny import predict_alike

from fastimae.cli import import_
from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import load_model
from fastimae.interop.architecture import mlp_ratio
from fastimae.interop.hints import Hints
from fastimae.interop.model_names import named_sizes
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.models import create_model

NAME = "mae_vit_nano_patch8"
ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.usefixtures("heard")


def build(**model):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "depth": 2, "embed_dim": 192, "num_heads": 6}
    return create_model(NAME, **{**sizes, **model})


def save(path, net, ours=False, args=None, keep=""):
    weights = {name: value for name, value in net.state_dict().items() if name.startswith(keep)}
    content = {"model": weights} | ({"args": args} if args else {})
    torch.save(content | ({"fastimae_format": 1} if ours else {}), path)
    return path


def latents(net, images):
    timm = pytest.importorskip("timm")
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=192, depth=2, num_heads=net.blocks[0].attn.num_heads,
        num_classes=0,
    )  # fmt: skip
    vit.load_state_dict({k: v for k, v in net.state_dict().items() if k in vit.state_dict()})
    with torch.no_grad():
        return vit.eval().forward_features(images)


def ours(net, images):
    from fastimae.kernels import Mask

    mask = Mask.from_bool(torch.zeros(len(images), 16, dtype=torch.bool))
    with torch.no_grad():
        return net.encode(net.patchify(images), mask.ids_keep)


def assumptions(caplog):
    return [r.message for r in caplog.records if " assumed" in r.message]


def test_heads_are_assumed_in_one_line_and_set_by_an_argument(tmp_path, caplog):
    """A file of six heads loads with three, which computes something else: only the log tells."""
    net, images = build(), torch.randn(2, 3, 32, 32)
    path = save(tmp_path / "foreign.pth", net)
    guessed = load_model(path)
    (line,) = assumptions(caplog)
    assert "foreign.pth: 3 attention heads assumed from its width of 192" in line
    assert (
        "raw pixels as its targets assumed" in line
        and "mean and deviation assumed as ImageNet's" in line
    )
    assert (guessed.facts["num_heads"].value, guessed.facts["num_heads"].source) == (3, "assumed")
    right = load_model(path, num_heads=6)
    assert right.facts["num_heads"].source == "flag"
    expected = latents(net, images)
    torch.testing.assert_close(ours(right, images), expected, rtol=0, atol=1e-5)
    apart = (ours(guessed, images) - expected).norm() / expected.norm()
    assert apart > 1e-3


def test_only_what_matters_is_logged(tmp_path, caplog):
    path = save(tmp_path / "foreign.pth", build())
    load_model(path, encoder_only=True, num_heads=6, mean=IMAGENET[0], std=IMAGENET[1])
    assert assumptions(caplog) == []  # the decoder's heads and the targets are not used here
    load_model(path, num_heads=6, mean=IMAGENET[0], std=IMAGENET[1], norm_pix_loss=True)
    (line,) = assumptions(caplog)
    assert "4 attention heads of its decoder assumed from its width of 128: decoder_num" in line
    assert line.endswith("decoder_num_heads changes that")


@pytest.mark.parametrize(
    ("given", "args", "value", "source"),
    [
        ({}, {"num_heads": 6}, 6, "file"),
        ({}, {"model": "vit_tiny_patch8_224"}, 3, "name"),
        ({}, {"model": "vit_base_patch8_224"}, 3, "assumed"),
        ({"name": "mae_vit_tiny_patch8"}, {}, 3, "flag"),
        ({"num_heads": 2}, {"num_heads": 6}, 2, "flag"),
        ({"num_heads": 2, "name": "mae_vit_tiny_patch8"}, {}, 2, "flag"),
    ],
    ids=["settings", "name in the file", "name of another width", "name", "flag", "flag and name"],
)
def test_sources_of_the_number_of_heads(tmp_path, given, args, value, source):
    path = save(tmp_path / "mae.pth", build(), args=args)
    fact = load_model(path, encoder_only=True, **given).facts["num_heads"]
    assert (fact.value, fact.source) == (value, source)


def test_a_flag_against_the_file(tmp_path, caplog):
    """Settings in other people's files may be wrong, so a warning is enough; ours are not."""
    foreign = save(tmp_path / "theirs.pth", build(), args={"num_heads": 6})
    load_model(foreign, num_heads=3)
    assert "theirs.pth says num_heads 6: overridden by num_heads 3" in caplog.text
    own = save(tmp_path / "own.pth", build(), True, {"num_heads": 6, "decoder_num_heads": 4})
    with pytest.raises(CheckpointError, match=r"own\.pth was trained with num_heads 6, not 3"):
        load_model(own, num_heads=3)
    with pytest.raises(CheckpointError, match="trained with num_heads 6, not 3"):
        load_model(own, name="mae_vit_tiny_patch8")
    with pytest.raises(CheckpointError, match="trained with decoder_num_heads 4, not 8"):
        load_model(own, decoder_num_heads=8)
    caplog.clear()
    assert load_model(own, num_heads=6).facts["num_heads"].source == "flag"
    assert "overridden" not in caplog.text and assumptions(caplog) == []


def test_any_width_with_heads_that_divide_it(tmp_path):
    net = build(embed_dim=40, num_heads=5, decoder_embed_dim=28, decoder_num_heads=7)
    path = save(tmp_path / "odd.pth", net)
    with pytest.raises(CheckpointError, match="attention heads of its width of 40 are unknown"):
        load_model(path)
    with pytest.raises(CheckpointError, match="num_heads 3 does not divide its width of 40"):
        load_model(path, num_heads=3)
    with pytest.raises(
        CheckpointError, match="its decoder's width of 28 are unknown: give decoder_num_heads"
    ):
        load_model(path, num_heads=5)
    loaded = load_model(path, num_heads=5, decoder_num_heads=7)
    assert predict_alike(net, loaded)


@pytest.mark.parametrize("kind", ["no heads fit", "no width of ours", "another decoder's parts"])
def test_features_need_no_decoder_that_fits(tmp_path, caplog, kind):
    net = build(decoder_embed_dim=28, decoder_num_heads=7)
    weights = dict(net.state_dict())
    if kind == "no width of ours":
        weights["mask_token"] = torch.zeros(1, 1, 30)
    if kind == "another decoder's parts":
        weights["decoder_blocks.0.cross_attn.q.weight"] = torch.zeros(28, 28)
    torch.save({"model": weights}, tmp_path / "mae.pth")
    loaded = load_model(tmp_path / "mae.pth", encoder_only=True, num_heads=6)
    assert "its decoder is dropped" in caplog.text and loaded.fresh_decoder
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(ours(loaded, images), ours(net, images))
    assert import_([str(tmp_path / "mae.pth"), str(tmp_path / "vit.pth"), "--encoder_only"]) == 0


def test_an_import_says_that_there_is_no_decoder(tmp_path, capsys):
    save(tmp_path / "mae.pth", build())
    lacks = "an encoder without a decoder"
    assert import_([str(tmp_path / "mae.pth"), str(tmp_path / "vit.pth"), "--encoder_only"]) == 0
    assert lacks not in capsys.readouterr().err
    assert import_([str(tmp_path / "vit.pth"), str(tmp_path / "again.pth")]) == 0
    assert lacks in capsys.readouterr().err


def test_what_an_import_assumed_is_logged_again(tmp_path, caplog):
    foreign = save(tmp_path / "foreign.pth", build(norm_pix_loss=True))
    out = tmp_path / "imported.safetensors"
    assert import_([str(foreign), str(out)]) == 0
    logging.getLogger("fastimae").propagate = True  # commands switch that off
    caplog.clear()
    model = load_model(out)
    (line,) = assumptions(caplog)
    assert "3 attention heads assumed by its import" in line
    assert model.facts["norm_pix_loss"].source == "assumed"
    assert load_model(out, num_heads=6).blocks[0].attn.num_heads == 6  # an assumption, not a fact
    flags = ["--num_heads", "6", "--decoder_num_heads", "4", "--norm_pix_loss", "on", "--force"]
    flags += ["--mean", *map(str, IMAGENET[0]), "--std", *map(str, IMAGENET[1])]
    assert import_([str(foreign), str(out), *flags]) == 0
    logging.getLogger("fastimae").propagate = True
    caplog.clear()
    model = load_model(out)
    assert assumptions(caplog) == [] and model.norm_pix_loss and model.blocks[0].attn.num_heads == 6
    assert {fact.source for fact in model.facts.values()} == {"file"}


def test_timms_hub_folder_has_heads_and_statistics(tmp_path, caplog):
    """config.json beside model.safetensors: heads by name, the rest in pretrained_cfg."""
    net = build(num_heads=3)
    encoder = ("cls", "pos", "patch", "blocks", "norm")
    weights = {k: v.clone() for k, v in net.state_dict().items() if k.startswith(encoder)}
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}
    config = {"architecture": "vit_tiny_patch8_224", "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path, encoder_only=True)
    assert model.mean == model.std == (0.5, 0.5, 0.5) and assumptions(caplog) == []
    assert model.facts["num_heads"].source == "name"
    config["model_args"] = {"num_heads": 6}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(tmp_path, encoder_only=True).blocks[0].attn.num_heads == 6


def test_hugging_faces_vit_has_heads_and_statistics(tmp_path):
    """ViT has ViTMAE's encoder: its config.json is read, and its classifier is `head`."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=48, num_attention_heads=12, num_hidden_layers=2, intermediate_size=96,
        image_size=32, patch_size=8, layer_norm_eps=1e-6, num_labels=5,
    )  # fmt: skip
    theirs = transformers.ViTForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path, encoder_only=True)
    assert model.blocks[0].attn.num_heads == 12 and model.facts["num_heads"].source == "file"
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.vit(images).last_hidden_state
    torch.testing.assert_close(ours(model, images), expected, rtol=0, atol=1e-4)


def test_a_teachers_heads(tmp_path, caplog):
    settings = {"mean": [0.5] * 3, "norm_pix_loss": True}
    path = save(tmp_path / "teacher.pth", build(num_heads=6), args=settings)
    student = build(num_heads=3, heads=2)
    assert load_teacher(path, student).blocks[0].attn.num_heads == 3
    (line,) = assumptions(caplog)
    assert "3 attention heads assumed from its width of 192" in line
    assert "teacher.pth was trained with mean (0.5, 0.5, 0.5), this run has" in caplog.text
    assert "norm_pix_loss" not in caplog.text, "not used"
    assert "--" not in caplog.text, "in Python there are no flags"
    load_teacher(path, student, hints=Hints({"teacher": "--teacher"}))
    assert f"--teacher {path} was trained with mean" in caplog.text
    assert load_teacher(path, student, num_heads=6).blocks[0].attn.num_heads == 6


def test_initial_weights_are_compared_with_the_student(tmp_path, caplog):
    student = build(num_heads=3)
    settings = {"num_heads": 6, "norm_pix_loss": True, "std": [0.5] * 3}
    load_init(student, save(tmp_path / "theirs.pth", build(), args=settings))
    assert "theirs.pth was trained with num_heads 6, this model has 3" in caplog.text
    assert "trained with norm_pix_loss True, this run has False; std (0.5" in caplog.text
    assert "--" not in caplog.text, "in Python there are no flags"
    assert "assumed as this run's: decoder_num_heads 4, mean (0.485" in caplog.text
    with pytest.raises(CheckpointError, match=r"own\.pth was trained with num_heads 6"):
        load_init(student, save(tmp_path / "own.pth", build(), True, settings))
    settings = {"num_heads": 3, "decoder_num_heads": 8}  # the file has no such decoder
    encoder = save(tmp_path / "vit.pth", build(num_heads=3), True, settings, keep=ENCODER)
    load_init(student, encoder)
    load_init(student, encoder, hints=Hints({"init": "--init"}))
    caplog.clear()
    settings = {"num_heads": 6, "decoder_num_heads": 4}
    load_init(build(), save(tmp_path / "same.pth", build(), True, settings))
    assert "trained with" not in caplog.text and "assumed as" not in caplog.text


def test_initial_weights_of_a_file_with_another_decoder(tmp_path, caplog):
    net = build(decoder_embed_dim=64)
    path = save(tmp_path / "mae.pth", net)
    student = build()
    fresh = student.mask_token.clone()
    load_init(student, path)
    assert torch.equal(student.blocks[1].mlp.fc2.weight, net.blocks[1].mlp.fc2.weight)
    assert torch.equal(student.mask_token, fresh)
    assert "decoder starts fresh: mask_token of the file's does not fit" in caplog.text


def test_names_of_other_codes():
    assert named_sizes("vit_small_patch16_224.augreg")["num_heads"] == 6
    assert named_sizes("tmae_vit_base_patch16")["num_heads"] == 12
    assert named_sizes("vit_giant_patch14") == named_sizes(None) == {}


def test_the_width_of_an_mlp_survives_its_ratio():
    """226 / 52 * 52 is a little less than 226."""
    assert int(52 * (226 / 52)) == 225
    for width in range(4, 2000, 36):
        for hidden in range(width // 2, 6 * width, 37):
            assert int(width * mlp_ratio(hidden, width)) == hidden
