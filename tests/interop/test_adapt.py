"""Weights for another image size or other channels: as timm does, or as a model made for that."""

import itertools
import json

import pytest
import safetensors.torch
import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from timm.models.vision_transformer import checkpoint_filter_fn

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import huggingface, load_model
from fastimae.interop.adapt import first_layer_for
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.models import create_model
from fastimae.models.positions import at_grid

NAME, PATCH, WIDTH = "mae_vit_nano_patch8", 8, 128
SQUARE, WIDE, HIGH = (32, 32), (16, 64), (48, 24)
MEAN, STD = (0.2, 0.4, 0.6), (0.1, 0.2, 0.3)
CLOSE = {"rtol": 0, "atol": 2e-5}

pytestmark = pytest.mark.usefixtures("heard")


def vit(size=SQUARE, in_chans=3, seed=1):
    """Build timm's model with random weights everywhere, of the width that nano has."""
    torch.manual_seed(seed)
    net = timm.models.VisionTransformer(
        img_size=size, patch_size=PATCH, in_chans=in_chans, embed_dim=WIDTH, depth=2, num_heads=4,
        num_classes=0,
    )  # fmt: skip
    for value in net.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return net.eval()


def mae(size=SQUARE, seed=1, **changes):
    """Build a MAE with random weights, all but its positions."""
    torch.manual_seed(seed)
    net = create_model(NAME, img_size=size, depth=2, decoder_depth=2, **changes)
    for value in net.parameters():
        if value.requires_grad:
            value.data += 0.1 * torch.randn_like(value)
    return net.eval()


def at_another_size(net, size, **changes):
    """Return a MAE made for that size, with the other's weights but for its positions."""
    changes = {"heads": net.heads, **changes}
    new = mae(size, seed=2, mean=net.mean, std=net.std, **changes)
    kept = {k: w for k, w in net.state_dict().items() if not k.endswith("pos_embed")}
    assert set(new.load_state_dict(kept, strict=False).missing_keys) <= {
        "pos_embed",
        "decoder_pos_embed",
    }
    return new


def save(path, weights, **more):
    torch.save({"model": weights, **more}, path)
    return path


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def assert_same(one, other, leave_out=("\0",)):
    assert one.state_dict().keys() == other.state_dict().keys()
    for name, value in one.state_dict().items():
        if not name.startswith(leave_out):
            assert torch.equal(value, other.state_dict()[name]), name


def as_dino(net):
    """Return a file of DINO's code: a student under DDP and its average, each with a projector."""
    weights, head = state(net), {"head.last_layer.weight_v": torch.ones(8, 4)}
    average = {f"backbone.{name}": torch.zeros_like(w) for name, w in weights.items()}
    student = {f"backbone.{name}": w for name, w in weights.items()} | head
    return {
        "student": {f"module.{name}": w for name, w in student.items()},
        "teacher": average | head,
        "optimizer": {"state": {}}, "epoch": 3, "dino_loss": {"center": torch.zeros(1, 4)},
    }  # fmt: skip


def as_moco(net):
    """Return a file of MoCo v3's code: both encoders end in a projector called head."""
    weights = state(net) | {
        "head.0.weight": torch.ones(16, WIDTH), "head.1.weight": torch.ones(16),
        "head.1.running_mean": torch.ones(16), "head.1.num_batches_tracked": torch.tensor(3),
        "head.3.weight": torch.ones(4, 16), "head.4.running_mean": torch.zeros(4),
    }  # fmt: skip
    base = {f"module.base_encoder.{name}": w for name, w in weights.items()}
    average = {f"module.momentum_encoder.{n}": torch.zeros_like(w) for n, w in weights.items()}
    predictor = {"module.predictor.0.weight": torch.ones(16, 4)}
    return {"epoch": 1, "arch": "vit_small", "state_dict": base | average | predictor}


FILES = {"timm": state, "official": lambda net: {"model": state(net)}, "dino": as_dino,
         "moco": as_moco}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "size", "in_chans"),
    [
        *itertools.product(["timm"], [SQUARE, HIGH, (64, 64)], [3, 1, 5]),
        *itertools.product(["official", "dino", "moco"], [HIGH], [3, 5]),
    ],
    ids=str,
)
def test_trained_positions_are_resized_and_features_are_timms(tmp_path, layout, size, in_chans):
    net, new = vit(), vit(size, in_chans, seed=2)
    torch.save(FILES[layout](net), tmp_path / "vit.pth")
    weights = checkpoint_filter_fn(state(net), new)
    name = "patch_embed.proj.weight"
    new.load_state_dict({**weights, name: adapt_input_conv(in_chans, weights[name])})
    path = tmp_path / "vit.pth"
    model = load_model(path, encoder_only=True, img_size=size, in_chans=in_chans)
    assert (model.img_size, model.in_chans) == (size, in_chans)
    images = torch.randn(2, in_chans, *size)
    with torch.no_grad():
        expected = new.forward_features(images)
        torch.testing.assert_close(model.forward_features(images), expected, **CLOSE)
    assert ("pos_embed" in model.adapted) == (size != SQUARE)
    assert (name in model.adapted) == (in_chans != 3)


@pytest.mark.parametrize("in_chans", [3, 4])
def test_hugging_faces_vit(tmp_path, in_chans):
    """Its own resizing has no antialias; ours is timm's for every file."""
    net, names = vit(), huggingface.from_mae(state(vit())).weights
    names = {name: value.clone() for name, value in names.items()}
    safetensors.torch.save_file(names, tmp_path / "model.safetensors")
    config = {"model_type": "vit", "num_attention_heads": 4, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path, encoder_only=True, img_size=WIDE, in_chans=in_chans)
    expected = resample_abs_pos_embed(net.pos_embed, [2, 8], [4, 4])
    assert torch.equal(model.pos_embed, expected) and "resized" in model.adapted["pos_embed"]
    assert torch.equal(model.blocks[1].attn.qkv.weight, net.blocks[1].attn.qkv.weight)
    assert model.in_chans == in_chans


@pytest.mark.parametrize("size", [(48, 64), (16, 16), WIDE], ids=str)
@pytest.mark.parametrize("layout", ["ours", "mae", "imae", "bfloat16", "huggingface"])
def test_maes_positions_are_made(tmp_path, caplog, layout, size):
    """Encoder and decoder are those of a model made for the size, with the file's other weights."""
    net = mae(heads=2 if layout == "imae" else 1)
    expected = at_another_size(net, size)
    weights, more = state(net), {}
    if layout == "bfloat16":
        weights = {name: value.bfloat16() for name, value in weights.items()}
        expected.load_state_dict({k: w.bfloat16().float() for k, w in state(expected).items()})
        for name in ("pos_embed", "decoder_pos_embed"):
            getattr(expected, name).data = state(mae(size))[name]
    elif layout == "huggingface":
        weights = huggingface.from_mae(weights).weights
    elif layout == "ours":
        more = {"args": {"num_heads": 4, "input_size": [32]}, "fastimae_format": 2}
    elif layout == "imae":
        weights["decoder_embed.weight"] = weights["decoder_embed1.weight"]
        weights["decoder_embed.bias"] = weights["decoder_embed1.bias"]
    path = save(tmp_path / "mae.pth", weights, **more)
    model = load_model(path, img_size=size)
    assert_same(model, expected)
    assert (model.img_size, model.grid) == (size, expected.grid) and not model.fresh_decoder
    (line,) = (line for line in caplog.messages if " made for " in line)
    assert "pos_embed and decoder_pos_embed made for images of {} x {} pixels".format(*size) in line


def test_a_file_that_fits_is_not_touched(tmp_path, caplog):
    net, args = mae(), {"num_heads": 4, "decoder_num_heads": 4}
    path = save(tmp_path / "mae.pth", state(net), args=args, fastimae_format=2)
    for flags in ({}, {"img_size": 32, "in_chans": 3}):
        model = load_model(path, **flags)
        assert_same(model, net)
        assert model.adapted == {} and model.facts["input_size"].source == "file"
    student = mae(seed=3)
    load_init(student, path)
    assert_same(student, net)
    assert student.adapted == {} and not caplog.messages


def test_the_position_of_the_class_token_stays(tmp_path):
    net = mae()
    net.pos_embed.data[:, 0] = 3
    model = load_model(save(tmp_path / "mae.pth", state(net)), img_size=48)
    assert (model.pos_embed[:, 0] == 3).all() and "made" in model.adapted["pos_embed"]


def test_positions_that_were_trained_from_sines_are_resized(tmp_path):
    """Fine-tuning moved them: made anew, they would lose that."""
    net = mae()
    net.pos_embed.data[:, 1:] += 0.03 * torch.randn(16, WIDTH)
    model = load_model(save(tmp_path / "mae.pth", state(net)), img_size=48)
    expected = resample_abs_pos_embed(net.pos_embed, [6, 6], [4, 4])
    assert torch.equal(model.pos_embed, expected)
    assert torch.equal(model.decoder_pos_embed, mae((48, 48)).decoder_pos_embed)


def moco_positions(rows, columns):
    """Return MoCo v3's fixed positions in float64: rows first, then columns."""
    powers = torch.arange(WIDTH // 4, dtype=torch.float64) / (WIDTH // 4)
    places = [(r, c) for r in range(rows) for c in range(columns)]
    angles = torch.tensor(places, dtype=torch.float64)[:, :, None] / 10000**powers
    waves = torch.stack([angles.sin(), angles.cos()], 2)  # [L, row or column, wave, D / 4]
    return torch.cat([torch.zeros(1, WIDTH), waves.flatten(1)])[None]


@pytest.mark.parametrize("grid", [(6, 6), (3, 5)])
def test_moco_v3s_positions_are_made(grid):
    made, how = at_grid(moco_positions(4, 4).float(), (4, 4), grid)
    assert how == "made"
    torch.testing.assert_close(made.double(), moco_positions(*grid), rtol=0, atol=1e-6)


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("before", [1, 3, 4, 10])
def test_first_layers(before, in_chans):
    """RGB is repeated as in timm; other channels are averaged. A gray image embeds the same."""
    weight = torch.randn(5, before, 2, 2)
    new, _ = first_layer_for(weight, in_chans)
    assert new.shape == (5, in_chans, 2, 2)
    if before == 3 or in_chans == 1:
        expected = adapt_input_conv(in_chans, weight, before)
    else:
        expected = weight.mean(1, keepdim=True).expand(new.shape) * before / in_chans
    torch.testing.assert_close(new, expected)
    if before != 3 or in_chans % 3 == 0 or in_chans == 1:
        torch.testing.assert_close(new.sum(1), weight.sum(1), rtol=0, atol=1e-5)


def test_mean_and_deviation_follow_the_first_layer(tmp_path, caplog):
    settings = {"args": {"mean": list(MEAN), "std": list(STD), "num_heads": 4},
                "fastimae_format": 2}  # fmt: skip
    path = save(tmp_path / "mae.pth", state(mae(mean=MEAN, std=STD)), **settings)
    model = load_model(path, encoder_only=True, in_chans=5)
    assert (model.mean, model.std) == (MEAN + MEAN[:2], STD + STD[:2]) and model.fresh_decoder
    assert "patch_embed.proj.weight repeated for in_chans 5; the file's is for 3" in caplog.text
    gray = load_model(path, encoder_only=True, in_chans=1, std=(0.5,))
    assert gray.mean == pytest.approx((0.4,)) and gray.std == (0.5,)


def test_a_reconstruction_of_other_channels_is_refused(tmp_path):
    path = save(tmp_path / "mae.pth", state(mae()))
    with pytest.raises(
        CheckpointError, match="other channels than 4; encoder_only=True loads it for features"
    ):
        load_model(path, in_chans=4)
    with pytest.raises(CheckpointError, match="of 8 x 8 pixels, which do not fill images of 36 x"):
        load_model(path, img_size=36)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("size", "in_chans"), [((48, 24), 3), (SQUARE, 4), ((40, 64), 1)])
def test_training_starts_from_another_size_and_other_channels(
    tmp_path, caplog, heads, size, in_chans
):
    net = mae()
    student = mae(size, seed=5, in_chans=in_chans, heads=heads)
    path = save(tmp_path / "mae.pth", state(net))
    fresh = state(student)
    load_init(student, path)
    for name, value in student.state_dict().items():
        if name.endswith("pos_embed") or (in_chans != 3 and name.startswith("decoder_pred.")):
            assert torch.equal(value, fresh[name]), name
        elif name == "patch_embed.proj.weight":
            assert torch.equal(value, adapt_input_conv(in_chans, net.state_dict()[name])), name
        else:
            source = name.replace("embed1", "embed").replace("embed2", "embed")
            assert torch.equal(value, net.state_dict()[source]), name
    told = {name.split(".")[0] for name in student.adapted}
    of_size = {"pos_embed", "decoder_pos_embed"} if size != SQUARE else set()
    of_channels = {"patch_embed", "decoder_pred"} if in_chans != 3 else set()
    assert told == of_size | of_channels
    assert ("normalised by this run's mean" in caplog.text) == (in_chans != 3)
    assert "trained with" not in caplog.text


@pytest.mark.parametrize("layout", FILES)
def test_training_starts_from_encoders_of_others(tmp_path, caplog, layout):
    """Nothing needs --allow_partial: projectors are dropped, the decoder starts fresh."""
    net, student = vit(), mae((48, 24), seed=3)
    fresh = state(student)
    torch.save(FILES[layout](net), tmp_path / "vit.pth")
    load_init(student, tmp_path / "vit.pth")
    expected = {**fresh, **state(net)}
    expected["pos_embed"] = resample_abs_pos_embed(net.pos_embed, [6, 3], [4, 4])
    assert all(torch.equal(value, expected[key]) for key, value in student.state_dict().items())
    assert "this run's decoder starts fresh: the file has none" in caplog.text


@pytest.mark.parametrize("space", ["decoder", "encoder"])
def test_a_teacher_of_another_size_and_other_channels(tmp_path, space):
    """Its latents are those of a MAE made for that size."""
    net = mae()
    student = mae((48, 24), seed=4, heads=2, head_space=space, in_chans=4)
    teacher = load_teacher(save(tmp_path / "mae.pth", state(net)), student)
    expected = at_another_size(net, (48, 24))
    weight = adapt_input_conv(4, net.patch_embed.proj.weight.detach())
    assert torch.equal(teacher.pos_embed, expected.pos_embed)
    assert torch.equal(teacher.patch_embed.proj.weight, weight)
    assert torch.equal(teacher.decoder_embed.weight, net.decoder_embed.weight)
    assert (teacher.mean, teacher.std, teacher.img_size) == (student.mean, student.std, (48, 24))


def test_a_beit_is_refused_by_the_part_that_ours_lacks(tmp_path):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    for absolute in (False, True):
        net = timm.models.Beit(**sizes, use_abs_pos_emb=absolute, use_shared_rel_pos_bias=True)
        path = save(tmp_path / "beit.pth", state(net))
        with pytest.raises(
            CheckpointError, match=r"has .*(other positions|relative positions|LayerScale)"
        ):
            load_model(path, encoder_only=True, img_size=48)
