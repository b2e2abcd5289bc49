"""--num_heads and --teach_num_heads: the model has them, and its checkpoint stores them."""

import pytest
import torch
from tiny import predict_alike

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.config import flatten
from fastimae.interop import load_model
from fastimae.settings import ConfigError

NANO = ["--synthetic", "--model", "mae_vit_nano_patch8", "--input_size", "32"]


def test_a_students_heads_are_in_its_checkpoint(tmp_path):
    config = parse_training("fastimae-train", [*NANO, "--num_heads", "8"])
    student = build_objective(config).student
    assert {block.attn.num_heads for block in student.blocks} == {8}
    content = {"model": student.state_dict(), "args": flatten(config), "fastimae_format": 1}
    torch.save(content, tmp_path / "mae.pth")
    loaded = load_model(tmp_path / "mae.pth")
    assert loaded.blocks[0].attn.num_heads == 8 and loaded.facts["num_heads"].source == "file"
    assert loaded.decoder_blocks[0].attn.num_heads == student.decoder_blocks[0].attn.num_heads
    assert predict_alike(student, loaded)


def test_a_teachers_heads_are_its_own(tmp_path):
    teacher = build_objective(parse_training("fastimae-train", [*NANO, "--num_heads", "8"])).student
    torch.save({"model": teacher.state_dict()}, tmp_path / "foreign.pth")
    flags = ["--objective", "imae", "--teacher", str(tmp_path / "foreign.pth")]
    config = parse_training("fastimae-train", [*NANO, *flags, "--teach_num_heads", "8"])
    objective = build_objective(config)
    assert objective.teacher.blocks[0].attn.num_heads == 8
    assert objective.student.blocks[0].attn.num_heads == 4
    with pytest.raises(ConfigError, match="--teach_num_heads has no effect without --teacher"):
        parse_training("fastimae-train", [*NANO, "--objective", "imae", "--teach_num_heads", "8"])
