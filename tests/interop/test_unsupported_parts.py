"""Parts of other transformers: refused if the result would differ, exact otherwise."""

import json

import pytest
import torch

from fastimae.cli import import_
from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import load_model
from fastimae.interop.hints import Hints
from fastimae.interop.pretrained import load_init
from fastimae.kernels import Mask
from fastimae.models import create_model

timm = pytest.importorskip("timm")

OTHERS = {
    "LayerScale": {"init_values": 1e-5},
    "norms of queries and keys": {"qk_norm": True},
    "a gated MLP": {"mlp_layer": timm.layers.SwiGLU},
    "a norm before its blocks": {"pre_norm": True},
    "an unknown part": {"scale_mlp_norm": True},
}
KEYS = {
    "relative positions": "blocks.0.attn.relative_position_bias_table",
    "LayerScale": "blocks.0.gamma_1",
    "separate biases of query and value": "blocks.0.attn.q_bias",
    "a distillation token": "dist_token",
    "register tokens": "register_tokens",
    "other positions": "rope.bands",
    "an unknown part": "patch_embed.norm.weight",
}

pytestmark = pytest.mark.usefixtures("heard")


def vit(**options):
    torch.manual_seed(3)
    net = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=4, num_classes=0, **options
    )
    for value in net.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return net.eval()


def refused(path, part):
    return pytest.raises(CheckpointError, match=rf"has {part}.* \(.*\): ours has none")


@pytest.mark.parametrize("part", OTHERS)
def test_parts_of_timms_are_refused(tmp_path, part):
    path = tmp_path / "vit.pth"
    torch.save(vit(**OTHERS[part]).state_dict(), path)
    for partial in (False, True):
        with refused(path, part):
            load_model(path, encoder_only=True, allow_partial=partial)
        with refused(path, part):
            load_init(create_model("mae_vit_nano_patch8", img_size=32), path, allow_partial=partial)
    assert import_([str(path), str(tmp_path / "out.pth"), "--allow_partial"]) == 2


@pytest.mark.parametrize("part", KEYS)
def test_parts_by_their_names(tmp_path, part):
    path = tmp_path / "vit.pth"
    torch.save(vit().state_dict() | {KEYS[part]: torch.zeros(1)}, path)
    with refused(path, part):
        load_model(path, encoder_only=True, allow_partial=True)


@pytest.mark.parametrize("kind", ["Dinov2", "Beit"])
def test_parts_of_hugging_faces_are_refused(tmp_path, kind):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=48, num_attention_heads=4, num_hidden_layers=1, intermediate_size=96,
        image_size=32, patch_size=8, use_absolute_position_embeddings=True,
    )  # fmt: skip
    torch.save(getattr(transformers, f"{kind}Model")(config).state_dict(), tmp_path / "vit.pth")
    with refused(tmp_path, ""):
        load_model(tmp_path / "vit.pth", encoder_only=True, allow_partial=True, num_heads=4)


@pytest.mark.parametrize("key", ["head_aux.weight", "decoder.blocks.0.ls1.gamma", "loss.rope"])
def test_heads_and_decoders_may_be_dropped(tmp_path, key, caplog):
    net = vit()
    torch.save(net.state_dict() | {key: torch.zeros(1)}, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=f"unexpected keys: {key}"):
        load_model(tmp_path / "vit.pth", encoder_only=True)
    model = load_model(tmp_path / "vit.pth", encoder_only=True, allow_partial=True)
    assert torch.equal(model.norm.weight, net.norm.weight)


def test_a_foreign_decoder_is_dropped_or_refused(tmp_path, caplog):
    """Features do not need it; reconstructions do."""
    weights = create_model("mae_vit_nano_patch8", img_size=32).state_dict()
    path = tmp_path / "mae.pth"
    torch.save(weights | {"decoder_blocks.0.ls1.gamma": torch.ones(128)}, path)
    with refused(path, "LayerScale"):
        load_model(path, allow_partial=True)
    load_model(path, encoder_only=True)
    assert "its decoder is dropped" in caplog.text


@pytest.mark.parametrize("without", ["qkv_bias", "proj_bias"])
def test_missing_biases_are_zeros(tmp_path, caplog, without):
    net, images = vit(**{without: False}), torch.randn(2, 3, 32, 32)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    model = load_model(tmp_path / "vit.pth", encoder_only=True)
    mask = Mask.from_bool(torch.zeros(2, 16, dtype=torch.bool))
    with torch.no_grad():
        expected = net.forward_features(images)
        found = model.encode(model.patchify(images), mask.ids_keep)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    part = "attn.qkv" if without == "qkv_bias" else "mlp.fc2"
    assert f"filled blocks.*.{part}.bias with zeros" in caplog.text


def test_a_single_missing_bias_is_damage(tmp_path):
    weights = vit().state_dict()
    del weights["blocks.1.attn.qkv.bias"]
    torch.save(weights, tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"missing keys: blocks\.1\.attn\.qkv\.bias"):
        load_model(tmp_path / "vit.pth", encoder_only=True)


@pytest.mark.parametrize("kind", ["IJepaModel", "VideoMAEModel"])
def test_another_transformer_of_hugging_faces_is_one_line(tmp_path, kind):
    """The names are ViTMAE's, but there is no class token, or it embeds frames."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    net = getattr(transformers, kind)
    config = net.config_class(**sizes, intermediate_size=96, image_size=32, patch_size=8)
    torch.save(net(config).state_dict(), tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is not a masked autoencoder: it has no cls_token"):
        load_model(tmp_path / "other.pth", encoder_only=True)


def test_a_file_without_blocks_is_one_line(tmp_path):
    weights = {k: v for k, v in vit().state_dict().items() if not k.startswith("blocks.")}
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match="it has no blocks"):
        load_model(tmp_path / "cut.pth", encoder_only=True)


def test_masked_image_modelling_of_hugging_face_gives_features(tmp_path):
    """Its mask token and the convolution after the encoder do not affect features."""
    transformers = pytest.importorskip("transformers")
    net = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        image_size=32, patch_size=8, encoder_stride=8, layer_norm_eps=1e-6,
    )).eval()  # fmt: skip
    net.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    model = load_model(tmp_path, encoder_only=True)
    mask = Mask.from_bool(torch.zeros(2, 16, dtype=torch.bool))
    with torch.no_grad():
        ours = model.encode(model.patchify(images), mask.ids_keep)
        torch.testing.assert_close(ours, net.vit(images).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_counters_of_a_profile_are_ignored(tmp_path, prefix):
    """thop registers them on every module, and checkpoints keep them."""
    weights = {prefix + name: value for name, value in vit().state_dict().items()}
    for place in ("", "blocks.0.", "blocks.0.attn.qkv.", "patch_embed.proj."):
        for counter in ("total_ops", "total_params"):
            weights[f"{prefix}{place}{counter}"] = torch.zeros(1, dtype=torch.float64)
    torch.save(weights, tmp_path / "profiled.pth")
    model = load_model(tmp_path / "profiled.pth", encoder_only=True)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[name], weights[prefix + name])


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"act_layer": "quick_gelu"}, "act_layer=quick_gelu"),
        ({"no_embed_class": True}, "no position for its class token"),
    ],
    ids=["activation", "positions"],
)
def test_what_only_timms_config_states_is_refused(tmp_path, arguments, why):
    torch.save(vit().state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4, **arguments}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=why):
        load_model(tmp_path, encoder_only=True)


def test_positions_without_a_class_token_are_named(tmp_path):
    torch.save(vit(no_embed_class=True).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="16 positions without a class token"):
        load_model(tmp_path / "vit.pth", encoder_only=True)


def test_an_import_drops_what_other_commands_refuse(tmp_path, capsys):
    """A projector beside the encoder: the error's hint leads to a file that loads."""
    torch.save(vit().state_dict() | {"projector.weight": torch.ones(2)}, tmp_path / "more.pth")
    hint = "fastimae-import --allow_partial writes a file without the unexpected ones"
    with pytest.raises(CheckpointError, match=hint):
        load_model(tmp_path / "more.pth", encoder_only=True, hints=Hints({}))
    out = tmp_path / "ours.pth"
    assert import_([str(tmp_path / "more.pth"), str(out), "--allow_partial"]) == 0
    assert "1 dropped (projector)" in capsys.readouterr().err
    load_model(out, encoder_only=True)
