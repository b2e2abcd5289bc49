"""Layouts of other code: models built by timm and transformers give the same features as ours."""

import pytest
import torch

from fastimae.engine.checkpoint import load_weights
from fastimae.engine.find_weights import find_weights
from fastimae.interop import detect, huggingface, imae, timm
from fastimae.interop.conversion import encoder_of
from fastimae.interop.layouts import to_mae
from fastimae.kernels import Mask
from fastimae.models import create_model
from fastimae.models.vit import Block, run_blocks, sincos_positions

NAME, SIZE, PATCHES = "mae_vit_nano_patch8", 32, 16
# Patches are embedded by a matrix product here, by a convolution there; Hugging Face has three
# products for query, key and value and normalises with its own eps unless told 1e-6.
CLOSE = {"rtol": 0, "atol": 5e-6}


@pytest.fixture
def model():
    """Build a MAE whose norms and biases are random, too, so that no error in them is hidden."""
    return randomised(create_model(NAME, img_size=SIZE, norm_pix_loss=True))


def randomised(net):
    for parameter in net.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return net.eval()


@pytest.fixture
def imgs():
    return torch.randn(2, 3, SIZE, SIZE)


def everything():
    """Return the mask that keeps all patches."""
    rows = torch.arange(PATCHES, dtype=torch.int32).expand(2, -1)
    return Mask(rows, rows, torch.zeros(2, PATCHES), rows[:, :0])


def features(net, imgs):
    with torch.no_grad():
        (patches,) = net.visible_patches(imgs.permute(0, 2, 3, 1), everything())
        return net.encode(patches, everything().ids_keep)


def blocks_alone(blocks, norm, x):
    """Compare the output of blocks, whose operations and their order are the same in both."""
    with torch.no_grad():
        if isinstance(blocks[0], Block):
            return run_blocks(blocks, norm, x)
        for block in blocks:
            x = block(x)
        return norm(x)


def assert_same_weights(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def timm_model(**options):
    vision_transformer = pytest.importorskip("timm.models.vision_transformer")
    sizes = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}
    return vision_transformer.VisionTransformer(**{**sizes, "num_classes": 0, **options}).eval()


def test_timm_gives_the_same_features(model, imgs):
    conversion = timm.from_mae(model.state_dict())
    net = timm_model()
    net.load_state_dict(conversion.weights)  # strict
    with torch.no_grad():
        theirs = net.forward_features(imgs)
    torch.testing.assert_close(features(model, imgs), theirs, **CLOSE)
    x = torch.randn(2, 17, 128)
    ours = blocks_alone(model.blocks, model.norm, x)
    assert torch.equal(ours, blocks_alone(net.blocks, net.norm, x))
    assert len(conversion.dropped) == len(model.state_dict()) - len(conversion.weights)


def test_timm_loads_an_export_but_not_a_full_mae(model):
    """`mask_token` makes timm's filter take a file for a DINOv2 (hence the export)."""
    filter_fn = pytest.importorskip("timm.models.vision_transformer").checkpoint_filter_fn
    net = timm_model()
    net.load_state_dict(filter_fn(dict(timm.from_mae(model.state_dict()).weights), net))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict(filter_fn(model.state_dict(), net))


def test_timms_registered_mae_models_have_our_names():
    """Names and shapes of ViT-B/16 as timm.create_model builds it (on the meta device)."""
    create = pytest.importorskip("timm").create_model
    with torch.device("meta"):
        theirs = create("vit_base_patch16_224.mae").state_dict()
        ours = timm.from_mae(create_model("mae_vit_base_patch16").state_dict()).weights
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert len(ours) == 150


def test_timm_with_mean_pooling_wants_fc_norm(model, imgs):
    net = timm_model(global_pool="avg")
    net.load_state_dict(timm.from_mae(model.state_dict(), global_pool="avg").weights)
    assert torch.equal(net.fc_norm.weight, model.norm.weight)
    parts = []
    model.blocks[-1].register_forward_hook(lambda _, inputs, out: parts.extend(out[:2]))
    blocks_alone(model.blocks, model.norm, tokens_of(model, imgs))
    with torch.no_grad():
        tokens = sum(parts)[:, 1:]
        torch.testing.assert_close(net(imgs), model.norm(tokens.mean(1)), **CLOSE)


def tokens_of(net, imgs):
    """Return the input of the first block."""
    with torch.no_grad():
        x = net.patch_embed(net.patchify(imgs)) + net.pos_embed[:, 1:]
        cls = (net.cls_token + net.pos_embed[:, :1]).expand(len(x), -1, -1)
        return torch.cat([cls, x], 1)


def test_a_plain_timm_vit_is_imported(imgs):
    net = randomised(timm_model(num_classes=10))
    assert detect(net.state_dict()) == "timm"
    model = create_model(NAME, img_size=SIZE)
    weights = {k: v for k, v in to_mae(net.state_dict()).weights.items() if "head" not in k}
    load_weights(model, weights, "file", optional=("decoder", "mask_token"))
    with torch.no_grad():
        torch.testing.assert_close(features(model, imgs), net.forward_features(imgs), **CLOSE)


def test_a_fine_tuned_mae_keeps_its_classifier(imgs):
    """The official ones have fc_norm and head, and no norm: timm's names with mean pooling."""
    net, again = (randomised(timm_model(num_classes=10, global_pool="avg")) for _ in range(2))
    assert "norm.weight" not in net.state_dict()
    again.load_state_dict(timm.from_mae(to_mae(net.state_dict()).weights, "avg").weights)
    with torch.no_grad():
        assert torch.equal(again(imgs), net(imgs))


def vit_mae(kind="ViTMAEForPreTraining", **options):
    transformers = pytest.importorskip("transformers")
    model = create_model(NAME, img_size=SIZE, norm_pix_loss=True)
    config = transformers.ViTMAEConfig(**{**huggingface.config_of(model), **options})
    net = randomised(getattr(transformers, kind)(config))
    positions = sincos_positions(128, (4, 4))
    for name, value in net.named_parameters():
        if "pos" in name:  # transformers leaves the decoder's zero
            value.data.copy_(positions)
    return net


def hidden(net, imgs):
    with torch.no_grad():
        net.config.mask_ratio = 0.0
        net.embeddings.config.mask_ratio = 0.0
        noise = torch.arange(PATCHES).float().expand(2, -1)  # patches stay in order
        return net(imgs, noise=noise).last_hidden_state


@pytest.mark.parametrize("bias", [True, False])
def test_hugging_face_to_ours_and_back(imgs, bias):
    net = vit_mae(qkv_bias=bias)
    assert detect(net.state_dict()) == "huggingface"
    conversion = to_mae(net.state_dict())
    model = create_model(NAME, img_size=SIZE, norm_pix_loss=True).eval()
    model.load_state_dict(conversion.weights)
    assert bool(conversion.filled) is not bias
    torch.testing.assert_close(features(model, imgs), hidden(net.vit, imgs), **CLOSE)
    back = huggingface.from_mae(conversion.weights)
    assert_same_weights(dict(to_mae(back.weights).weights), dict(conversion.weights))


def test_hugging_faces_own_eps_moves_features_little(model, imgs):
    net = vit_mae(layer_norm_eps=1e-12)
    model.load_state_dict(to_mae(net.state_dict()).weights)
    apart = (features(model, imgs) - hidden(net.vit, imgs)).abs().max()
    assert 0 < apart < 1e-4


def test_hugging_face_gives_the_same_loss_and_prediction(model, imgs):
    net = vit_mae()
    weights = to_mae(net.state_dict()).weights
    model.load_state_dict(weights)
    noise = torch.rand(2, PATCHES)
    with torch.no_grad():
        theirs = net(imgs, noise=noise)
        loss, pred, mask = model(imgs, mask=Mask.from_bool(theirs.mask.bool()))
    assert torch.equal(mask, theirs.mask)
    torch.testing.assert_close(pred, theirs.logits, rtol=0, atol=5e-6)
    torch.testing.assert_close(loss, theirs.loss, **CLOSE)


def test_hugging_faces_encoder_alone(imgs):
    net = vit_mae("ViTMAEModel")
    model = create_model(NAME, img_size=SIZE).eval()
    load_weights(
        model, to_mae(net.state_dict()).weights, "file", optional=("decoder", "mask_token")
    )
    torch.testing.assert_close(features(model, imgs), hidden(net, imgs), **CLOSE)
    back = huggingface.from_mae(encoder_of(model.state_dict()).weights).weights
    assert "embeddings.cls_token" in back and not any(k.startswith("vit.") for k in back)
    assert_same_weights(dict(to_mae(back).weights), dict(encoder_of(model.state_dict()).weights))


def test_query_key_and_value_keep_their_order(model):
    theirs = huggingface.from_mae(model.state_dict()).weights
    packed = model.blocks[2].attn.qkv.weight
    for number, part in enumerate(("query", "key", "value")):
        name = f"vit.encoder.layer.2.attention.attention.{part}.weight"
        assert torch.equal(theirs[name], packed[number * 128 : (number + 1) * 128])
    shuffled = dict(sorted(theirs.items(), reverse=True))
    assert_same_weights(dict(to_mae(shuffled).weights), model.state_dict())


def test_released_imae():
    net = create_model(NAME, img_size=SIZE, heads=2, decoder_embed_dim=64)
    released = imae.from_mae(net.state_dict())
    assert set(released.weights) - set(net.state_dict()) == set(imae._UNUSED)
    assert detect(released.weights) == "imae"
    back = to_mae(released.weights)
    assert back.dropped == imae._UNUSED
    assert_same_weights(dict(back.weights), net.state_dict())


@pytest.mark.parametrize(("head", "kept"), [("subordinate", 1), ("dominant", 2)])
def test_one_head_of_an_imae_is_a_mae(head, kept, model):
    net = create_model(NAME, img_size=SIZE, heads=2)
    model.load_state_dict(imae.one_head(net.state_dict(), head).weights)
    assert torch.equal(model.decoder_embed.bias, net.get_submodule(f"decoder_embed{kept}").bias)
    assert torch.equal(model.decoder_embed.weight, net.get_parameter(f"decoder_embed{kept}.weight"))


def test_heads_in_the_encoders_width_stay_ours():
    net = create_model(NAME, img_size=SIZE, heads=2, head_space="encoder", decoder_embed_dim=64)
    assert_same_weights(dict(to_mae(net.state_dict()).weights), net.state_dict())
    for convert in (imae.from_mae, lambda weights: imae.one_head(weights, "dominant")):
        with pytest.raises(ValueError, match="the state dict has its heads in the encoder's width"):
            convert(net.state_dict())


def test_every_layout_is_recognised(model):
    weights = model.state_dict()
    assert detect(weights) == "mae"
    assert detect(encoder_of(weights).weights) == "timm"
    assert detect(huggingface.from_mae(weights).weights) == "huggingface"
    assert detect(create_model(NAME, heads=2).state_dict()) == "imae"


def not_square():
    return create_model(NAME, img_size=(32, 16))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: detect({}), "the state dict is not a masked autoencoder: it has no cls_token"),
        (lambda: to_mae({"1.weight": torch.ones(1)}), "the state dict is a probe of features, .*"),
        (lambda: huggingface.config_of(not_square()), "the model is for images that are not .*"),
        (lambda: huggingface.settings({"model_type": "vit", "hidden_act": "relu"}, {}),
         "the model of this config.json computes with hidden_act=relu, which MAE lacks"),
        (lambda: timm.settings({"model_args": {"act_layer": "relu"}}),
         "the model of this config.json computes with act_layer=relu, which MAE lacks"),
        (lambda: find_weights({}), "the content holds no model weights"),
    ],
    ids=["detect", "to_mae", "config_of", "huggingface", "timm", "take"],
)  # fmt: skip
def test_errors_in_python_are_sentences_about_what_was_given(call, message):
    with pytest.raises(ValueError, match=f"^{message}$") as error:
        call()
    assert "--" not in str(error.value)
