"""MAE files as teachers and as initial weights: ours, official ones, and incomplete ones."""

import argparse
import logging

import pytest
import torch

from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop.hints import Hints
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.models import create_model
from fastimae.models.settings import ModelSettings
from fastimae.objectives.settings import IMAESettings

NAME = "mae_vit_nano_patch8"


def build(heads=1, name=NAME, **overrides):
    return create_model(name, img_size=32, heads=heads, **overrides)


@pytest.fixture
def saved(tmp_path):
    """Return a function that writes a MAE's checkpoint with changes: (model, path)."""

    def save(drop=(), args=None, bare=False, **model):
        net = build(**model)
        weights = {k: v for k, v in net.state_dict().items() if not k.startswith(drop or ("?",))}
        content = weights if bare else {"model": weights}
        if args is not None:
            content |= {"args": args, "fastimae_format": 1}
        torch.save(content, tmp_path / "mae.pth")
        return net, tmp_path / "mae.pth"

    return save


def assert_same_weights(a, b):
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


@pytest.mark.parametrize(
    "layout",
    [
        {"args": {"model": NAME}},
        {"bare": True},
        {},
        {"args": argparse.Namespace(model=NAME)},
        {"args": {"model": NAME, "decoder_num_heads": 8}, "decoder_num_heads": 8},
    ],
)
def test_teacher_from_every_layout(saved, layout):
    net, path = saved(**layout)
    teacher = load_teacher(path, build(2))
    assert_same_weights(net, teacher)
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    torch.manual_seed(1)
    expected = net(images)[1]
    torch.manual_seed(1)
    assert torch.equal(teacher(images)[1], expected)


def test_official_weights_print_their_licence(saved, caplog):
    logging.getLogger("fastimae").propagate = True
    _, path = saved()
    load_teacher(path, build(2))
    assert "CC-BY-NC 4.0" in caplog.text
    caplog.clear()
    _, path = saved(args={"model": NAME})
    load_teacher(path, build(2))
    assert "CC-BY-NC" not in caplog.text


def test_an_encoder_only_file_teaches_in_the_encoders_space(saved):
    net, path = saved(drop=("decoder", "mask_token"))
    with pytest.raises(CheckpointError, match=r"missing keys: decoder_embed\.weight"):
        load_teacher(path, build(2))
    teacher = load_teacher(path, build(2, head_space="encoder"))
    assert torch.equal(teacher.norm.weight, net.norm.weight)
    assert torch.equal(teacher.blocks[3].mlp.fc1.weight, net.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("drop", "space", "cure"),
    [
        (("decoder", "mask_token"), "decoder", "; --head_space encoder compares"),
        ("decoder_embed.bias", "decoder", "; --head_space encoder compares"),
        ("norm.", "encoder", ""),
        ("blocks.1.attn.proj.bias", "encoder", ""),
    ],
    ids=["an encoder alone", "half a projection", "no norm", "no bias"],
)
@pytest.mark.parametrize("partial", [False, True])
def test_no_part_of_a_teacher_is_random(saved, drop, space, cure, partial):
    """--allow_partial would distil towards a random projection."""
    _, path = saved(drop=drop)
    hints = Hints.of(ModelSettings, IMAESettings)
    with pytest.raises(
        CheckpointError, match="lacks parts that the latents of a teacher need"
    ) as found:
        load_teacher(path, build(2, head_space=space), allow_partial=partial, hints=hints)
    assert cure in str(found.value) and "allow_partial" not in str(found.value)
    assert ("head_space" in str(found.value)) == bool(cure)


def test_a_teacher_may_have_unexpected_keys(saved):
    net, path = saved()
    torch.save({"model": net.state_dict() | {"surplus.weight": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match=r"unexpected keys: surplus\.weight"):
        load_teacher(path, build(2))
    assert_same_weights(net, load_teacher(path, build(2), allow_partial=True))


def test_teachers_that_do_not_fit(saved, tmp_path):
    _, path = saved(heads=2)
    with pytest.raises(CheckpointError, match="is an i-MAE"):
        load_teacher(path, build(2))
    _, path = saved()
    with pytest.raises(CheckpointError, match=r"of 8 x 8 pixels, which do not fill .* 36 x"):
        load_teacher(path, create_model("mae_vit_nano_patch4", img_size=36, heads=2))
    _, path = saved(embed_dim=24, num_heads=2)
    with pytest.raises(CheckpointError, match=r"attention heads of its width of .* are unknown"):
        load_teacher(path, build(2))
    torch.save({"model": {"w": torch.zeros(2)}}, path)
    with pytest.raises(CheckpointError, match="not a masked autoencoder"):
        load_teacher(path, build(2))
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_teacher(tmp_path / "none.pth", build(2))


def test_init_copies_a_mae(saved):
    net, path = saved()
    student = build()
    load_init(student, path)
    assert_same_weights(net, student)


def test_init_starts_both_heads_from_decoder_embed(saved):
    net, path = saved()
    student = build(2)
    load_init(student, path)
    for head in (student.decoder_embed1, student.decoder_embed2):
        assert torch.equal(head.weight, net.decoder_embed.weight)
        assert torch.equal(head.bias, net.decoder_embed.bias)
    assert torch.equal(student.decoder_pred.weight, net.decoder_pred.weight)


def test_init_leaves_encoder_space_heads_fresh(saved):
    net, path = saved()
    student = build(2, head_space="encoder")
    before = student.decoder_embed1.weight.clone()
    load_init(student, path)
    assert torch.equal(student.decoder_embed1.weight, before)
    assert torch.equal(student.decoder_embed.weight, net.decoder_embed.weight)


def test_init_from_an_encoder_starts_a_fresh_decoder(saved, caplog, heard):
    net, path = saved(drop=("decoder", "mask_token"))
    student = build()
    decoder = {k: v.clone() for k, v in student.state_dict().items() if k.startswith("decoder")}
    load_init(student, path)
    assert torch.equal(student.cls_token, net.cls_token)
    assert all(torch.equal(v, student.state_dict()[name]) for name, v in decoder.items())
    assert "decoder starts fresh: the file has none" in caplog.text
    assert student.adapted == {"decoder": "fresh: the file has none"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"decoder_embed_dim": 64}, "mask_token of the file's does not fit"),
        ({"decoder_depth": 1}, "decoder_blocks.1.norm1.weight of the file's is missing"),
        ({"decoder_depth": 3}, "decoder_blocks.2.norm1.weight of the file's does not fit"),
        ({"drop": "decoder_embed.bias"}, "decoder_embed.bias of the file's is missing"),
        ({"heads": 2}, "decoder_embed.weight of the file's is missing"),
    ],
    ids=["width", "less deep", "deeper", "incomplete", "two heads"],
)
def test_a_decoder_that_does_not_fit_stays_fresh_as_a_whole(saved, caplog, heard, changed, why):
    net, path = saved(**{"decoder_depth": 2, **changed})
    student = build(decoder_depth=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    load_init(student, path)
    for name, value in student.state_dict().items():
        fresh = name.startswith(("decoder_", "mask_token"))
        assert torch.equal(value, before[name] if fresh else net.state_dict()[name]), name
    assert f"decoder starts fresh: {why}" in caplog.text


def test_an_encoder_is_complete_or_an_error(saved):
    """As before: only --allow_partial loads a part of it; other sizes are an error in any case."""
    hints = Hints({"allow_partial": "--allow_partial", "model": "--model"})
    for drop in ("blocks.1.norm1.bias", ("blocks.1.norm1.bias", "decoder", "mask_token")):
        _, path = saved(drop=drop)
        with pytest.raises(
            CheckpointError, match=r"missing keys: blocks\.1\.norm1\.bias; .*none; -"
        ):
            load_init(build(), path, hints=hints)
        load_init(build(), path, hints=hints, allow_partial=True)
    _, path = saved(depth=5)
    with pytest.raises(CheckpointError, match=r"unexpected keys: blocks\.4\."):
        load_init(build(), path, hints=hints)
    for changed in ({"name": "mae_vit_nano_patch4"}, {"embed_dim": 192, "num_heads": 3}):
        _, path = saved(**changed)
        for partial in (False, True):
            with pytest.raises(CheckpointError, match=r"of another size: .*: change --model$"):
                load_init(build(), path, allow_partial=partial, hints=hints)
