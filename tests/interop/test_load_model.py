"""load_model and the export and import commands: right sizes, no key lost, no half-written file."""

import argparse
import json
import logging

import pytest
import safetensors
import torch

from fastimae.cli import export, import_
from fastimae.engine.checkpoint import FORMAT, CheckpointError
from fastimae.interop import load_model
from fastimae.models import create_model

NAME = "mae_vit_nano_patch8"
STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
ENCODER = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")


@pytest.fixture(autouse=True)
def _log(caplog):
    logging.getLogger("fastimae").propagate = True


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a checkpoint, ours if `args` are given: (model, path)."""

    def write(args=None, keep=None, extra=None, file="mae.pth", **model):
        net = create_model(NAME, **{"img_size": 32, **model})
        weights = {k: v for k, v in net.state_dict().items() if k.startswith(keep or "")}
        content = {"model": weights | (extra or {})}
        if args is not None:
            content |= {"args": {"model": NAME, **args}, "fastimae_format": 1}
        torch.save(content, tmp_path / file)
        return net, tmp_path / file

    return write


def same(a, b, among=""):
    weights = b.state_dict()
    return all(torch.equal(v, weights[k]) for k, v in a.state_dict().items() if k.startswith(among))


def reconstruct(net, images):
    torch.manual_seed(1)
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize(
    ("args", "model"),
    [
        ({"norm_pix_loss": True}, {"norm_pix_loss": True}),
        ({"input_size": [16, 64]}, {"img_size": (16, 64)}),
        ({"in_chans": 1}, {"in_chans": 1}),
        (
            {"decoder_num_heads": 2, "decoder_depth": 3},
            {"decoder_num_heads": 2, "decoder_depth": 3},
        ),
        (STATISTICS, STATISTICS),
    ],
)
def test_our_own_checkpoints(save, args, model):
    net, path = save(args, **model)
    loaded = load_model(path)
    images = torch.randint(0, 256, (2, *net.img_size, net.in_chans), dtype=torch.uint8)
    assert all(map(torch.equal, reconstruct(net, images), reconstruct(loaded, images)))
    assert (loaded.mean, loaded.std, loaded.img_size) == (net.mean, net.std, net.img_size)


@pytest.mark.parametrize("space", ["decoder", "encoder"])
def test_our_own_imae(save, space):
    """Encoder and decoder have the same width, so only our layout distinguishes the two spaces."""
    net, path = save({}, heads=2, head_space=space)
    loaded = load_model(path)
    assert (loaded.heads, loaded.head_space) == (2, space) and same(net, loaded)


def test_official_files(save, caplog):
    tiny = dict.fromkeys(("embed_dim", "decoder_embed_dim"), 192)
    tiny |= dict.fromkeys(("num_heads", "decoder_num_heads"), 3)
    net, path = save(file="mae_pretrain_vit_base_full.pth", **tiny)
    content = torch.load(path) | {"args": argparse.Namespace(input_size=224, model="mae_vit_x")}
    torch.save(content, path)
    loaded = load_model(path)
    assert same(net, loaded) and loaded.norm_pix_loss and loaded.img_size == (32, 32)
    assert loaded.blocks[0].attn.num_heads == 3 and "CC-BY-NC 4.0" in caplog.text
    _, path = save(file="mae_visualize_vit_base.pth")
    assert not load_model(path).norm_pix_loss


def test_an_encoder_alone_gives_features_only(save):
    net, path = save(keep=ENCODER)
    with pytest.raises(CheckpointError, match="has no decoder, only an encoder"):
        load_model(path)
    assert same(net, load_model(path, encoder_only=True), ENCODER)
    assert same(net, load_model(path, allow_partial=True), ENCODER)


def test_a_classifier_is_named_or_dropped(save):
    head = {"head.weight": torch.zeros(10, 128), "head.bias": torch.zeros(10)}
    net, path = save(keep=ENCODER, extra=head)
    assert same(net, load_model(path, encoder_only=True), ENCODER)
    pooled = {f"fc_norm.{kind}": torch.ones(128) for kind in ("weight", "bias")}
    net, path = save(keep=ENCODER[:4], extra=head | pooled)
    assert same(net, load_model(path, encoder_only=True), ENCODER[:4])
    _, path = save(keep=ENCODER[:4], extra=head)
    with pytest.raises(CheckpointError, match=r"missing keys: norm\.weight, norm\.bias"):
        load_model(path, encoder_only=True)


def test_every_key_is_accounted_for(save, caplog):
    _, path = save(extra={"surplus.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unexpected keys: surplus\.weight"):
        load_model(path)
    load_model(path, allow_partial=True)
    assert "surplus.weight" in caplog.text


def test_unusual_widths_need_a_name(save):
    _, path = save(embed_dim=24, num_heads=2)
    with pytest.raises(CheckpointError, match=r"attention heads of its width of .* are unknown"):
        load_model(path)
    with pytest.raises(CheckpointError, match="name mae_vit_base_patch8 does not fit"):
        load_model(path, name="mae_vit_base_patch8")
    net, path = save({"num_heads": 2}, embed_dim=24, num_heads=2)
    assert same(net, load_model(path))


def run(command, *arguments):
    return command([str(argument) for argument in arguments])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("to", ["fastimae", "mae", "timm"])
def test_export_and_back(save, tmp_path, to, suffix, capsys):
    net, path = save({**STATISTICS, "norm_pix_loss": True, "epochs": 7}, **STATISTICS)
    out, back = tmp_path / f"out{suffix}", tmp_path / "back.pth"
    assert run(export, path, out, "--to", to) == 0
    assert run(import_, out, back) == 0
    among = ENCODER if to == "timm" else ""
    for file in (out, back):
        loaded = load_model(file, encoder_only=to == "timm")
        assert same(net, loaded, among)
        assert loaded.norm_pix_loss or (to, suffix) == ("timm", ".pth")  # a bare state dict
    said = capsys.readouterr().err
    assert "CC-BY-NC" not in said or (to, suffix) == ("timm", ".pth")
    assert ("20 dropped (mask_token," in said) == (to == "timm")


@pytest.mark.parametrize("options", [[], ["--encoder_only"]])
def test_hugging_face_loads_an_export(save, tmp_path, options):
    transformers = pytest.importorskip("transformers")
    net, path = save({**STATISTICS, "norm_pix_loss": True}, **STATISTICS, norm_pix_loss=True)
    out = tmp_path / "folder"
    assert run(export, path, out, "--to", "huggingface", *options) == 0
    kind = transformers.ViTMAEModel if options else transformers.ViTMAEForPreTraining
    theirs, info = kind.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert theirs.config.layer_norm_eps == 1e-6 and theirs.config.norm_pix_loss
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    assert list(processor.image_mean) == STATISTICS["mean"]
    images = torch.randn(2, 3, 32, 32)
    if not options:
        torch.manual_seed(0)
        theirs.eval()
        with torch.no_grad():
            made = theirs(images)
            loss, *_ = net(images, mask=mask_of(made.mask))
        torch.testing.assert_close(loss, made.loss)
    theirs.save_pretrained(tmp_path / "again")  # as their own code writes it
    for folder in (out, tmp_path / "again", out / "model.safetensors"):
        loaded = load_model(folder, encoder_only=bool(options))
        assert same(net, loaded, ENCODER if options else "") and loaded.norm_pix_loss
    assert load_model(out, encoder_only=True).mean == tuple(STATISTICS["mean"])


def mask_of(mask):
    from fastimae.kernels import Mask

    return Mask.from_bool(mask.bool())


def test_imae_is_exported_in_three_ways(save, tmp_path):
    net, path = save({"teacher": "/a/b/teacher.pth"}, heads=2, decoder_embed_dim=64)
    out = tmp_path / "released.pth"
    assert run(export, path, out, "--to", "mae") == 0
    released = torch.load(out, weights_only=True)
    assert torch.equal(released["model"]["decoder_embed.bias"], net.decoder_embed2.bias)
    assert same(net, load_model(out)) and released["args"]["teacher"] == "teacher.pth"
    assert run(export, path, out, "--to", "mae", "--head", "subordinate", "--force") == 0
    assert torch.equal(load_model(out).decoder_embed.weight, net.decoder_embed1.weight)
    assert run(export, path, tmp_path / "hub", "--to", "huggingface") == 0
    assert torch.equal(load_model(tmp_path / "hub").decoder_embed.weight, net.decoder_embed2.weight)
    assert run(export, path, out, "--to", "timm", "--head", "dominant", "--force") == 2


def test_an_imported_file_keeps_its_licence(save, tmp_path, capsys):
    net, path = save()
    out = tmp_path / "ours.safetensors"
    assert run(import_, path, out) == 0
    with safetensors.safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert "CC-BY-NC 4.0" in metadata["licence"]
    assert json.loads(metadata["args"])["model"] == NAME and metadata["fastimae_format"] == str(
        FORMAT
    )
    capsys.readouterr()
    assert same(net, load_model(out)) and "CC-BY-NC 4.0" in capsys.readouterr().err


def test_export_accounts_for_every_key(save, tmp_path, capsys):
    _, path = save({}, extra={"surplus.weight": torch.zeros(1)})
    out = tmp_path / "out.pth"
    assert run(export, path, out, "--to", "timm") == 2 and not out.exists()
    assert "unexpected keys: surplus.weight" in capsys.readouterr().err
    assert run(export, path, out, "--to", "timm", "--allow_partial") == 0
    assert "unexpected keys: surplus.weight" in capsys.readouterr().err
    assert "surplus.weight" in torch.load(out)


def test_nothing_is_overwritten_or_half_written(save, tmp_path, capsys, monkeypatch):
    _, path = save({})
    out = tmp_path / "out.pth"
    out.write_text("precious")
    for arguments, message in [
        ((out, "--to", "mae"), "add --force"),
        ((tmp_path / "out.bin", "--to", "mae"), "ending in .safetensors or .pth"),
        ((tmp_path / "out.pth", "--to", "huggingface"), "must be a folder"),
    ]:
        assert run(export, path, *arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(torch, "save", full_disk)
    assert run(export, path, out, "--to", "mae", "--force") == 2
    assert out.read_text() == "precious" and "No space left" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mae.pth", "out.pth"]


@pytest.mark.parametrize("to", [["mae"], ["huggingface"], ["fastimae", "--head", "dominant"]])
def test_heads_in_the_encoders_width_are_exported_without_a_decoder(save, tmp_path, capsys, to):
    _, path = save({}, heads=2, head_space="encoder")
    out = tmp_path / ("hub" if to == ["huggingface"] else "out.pth")
    assert run(export, path, out, "--to", *to) == 2 and not out.exists()
    told = capsys.readouterr().err
    assert f"{path} has its heads in the encoder's width (--head_space encoder), which" in told
    assert "no other code knows: export it with --encoder_only" in told


def full_disk(content, path):
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_files_that_are_not_models(tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        load_model(tmp_path / "junk.safetensors")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors"):
        load_model(tmp_path)
