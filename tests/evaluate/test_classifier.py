"""The classifier that fine-tuning starts from, and the learning rates of its layers."""

import dataclasses

import pytest
import torch

from fastimae.evaluate.features import features, latents
from fastimae.evaluate.labels.classification import Classification
from fastimae.evaluate.training.batches import LabelledBatch
from fastimae.models import create_model

pytest.importorskip("timm")
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.finetuning.classifier import build_classifier


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(1)
    return create_model("mae_vit_nano_patch8", img_size=32, embed_dim=32, num_heads=2).eval()


def inputs_of(encoder, images):
    mean, std = (torch.tensor(values)[:, None, None] for values in (encoder.mean, encoder.std))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


@torch.no_grad()
def test_it_sees_what_the_encoder_sees(encoder):
    images = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    inputs, close = inputs_of(encoder, images), {"atol": 2e-5, "rtol": 1e-4}
    token = build_classifier(encoder, 5, global_pool=False).eval()
    seen = token.forward_head(token.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(seen, features(encoder, images, "cls", "fp32"), **close)
    pooled = build_classifier(encoder, 5, global_pool=True, drop_path=0.5).eval()
    seen = pooled.forward_head(pooled.forward_features(inputs), pre_logits=True)
    before = []  # the residual stream, and what is still to be added
    hook = encoder.blocks[-1].register_forward_hook(lambda _m, _i, out: before.extend(out[:2]))
    # Fresh norms have weight 1 and bias 0, as the encoder's here.
    tokens = latents(encoder, images, "fp32")
    hook.remove()
    assert not torch.allclose(seen, tokens[:, 1:].mean(1), **close)  # mean first, then the norm
    expected = torch.nn.functional.layer_norm(sum(before)[:, 1:].mean(1), (32,), eps=1e-6)
    torch.testing.assert_close(seen, expected, **close)


def test_first_logits_are_all_but_equal(encoder):
    student = build_classifier(encoder, 7, global_pool=True).eval()
    logits = student(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 7) and 0 < logits.abs().max() < 1e-3


def test_positions_are_ours_and_are_interpolated_to_another_size(encoder):
    same = build_classifier(encoder, 2, global_pool=True)
    assert torch.equal(same.pos_embed, encoder.pos_embed) and same.pos_embed.requires_grad
    larger = build_classifier(encoder, 2, global_pool=True, img_size=(32, 64))
    assert larger.pos_embed.shape == (1, 33, 32)
    assert torch.equal(larger.pos_embed[:, 0], encoder.pos_embed[:, 0])
    rows = larger.pos_embed[0, 1:].view(4, 8, 32)
    own = encoder.pos_embed[0, 1:].view(4, 4, 32)
    # Twice as many columns: two neighbours average to about their original column.
    torch.testing.assert_close(rows.view(4, 4, 2, 32).mean(2), own, atol=0.08, rtol=0)
    assert larger(torch.randn(1, 3, 32, 64)).shape == (1, 2)


@pytest.mark.parametrize("pool", [True, False])
def test_layers_decay_as_the_formula_says(encoder, pool):
    student = build_classifier(encoder, 5, global_pool=pool)
    groups = encoder_groups(student, weight_decay=0.05, layer_decay=0.5)
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found)
    # Four blocks: 0.5 ** 5 before them, then 0.5 ** (4, 3, 2, 1), and 1 after them.
    scales = {
        "cls_token": 1 / 32, "pos_embed": 1 / 32, "patch_embed.proj.weight": 1 / 32,
        "blocks.0.attn.qkv.weight": 1 / 16, "blocks.1.norm1.bias": 1 / 8,
        "blocks.2.mlp.fc2.bias": 1 / 4, "blocks.3.mlp.fc1.weight": 1 / 2,
        "fc_norm.weight" if pool else "norm.weight": 1, "head.weight": 1, "head.bias": 1,
    }  # fmt: skip
    parameters = dict(student.named_parameters())
    assert len(found) == len(parameters)
    for name, scale in scales.items():
        matrix = name.endswith(("proj.weight", "qkv.weight", "fc1.weight", "head.weight"))
        assert found[id(parameters[name])] == (scale, 0.05 if matrix else 0), name


def test_the_objective_takes_weights_of_another_format(encoder):
    student = build_classifier(encoder, 5, global_pool=True).eval()
    torch.nn.init.normal_(student.head.weight)
    objective = Classification(student)
    inputs, targets = torch.randn(6, 3, 32, 32), torch.arange(6) % 5
    batch = LabelledBatch(inputs=inputs, targets=targets, index=torch.arange(6))
    expected = objective(batch)["loss"]
    soft = torch.nn.functional.one_hot(batch.targets, 5).float()
    mixed = objective(dataclasses.replace(batch, targets=soft))["loss"]
    torch.testing.assert_close(mixed, expected)
    student.bfloat16()
    low = objective(batch)["loss"]
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, atol=0.02, rtol=0)
