"""Attention maps against the attention that the model computes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_run, tiny_model

from fastimae.evaluate.features import latents
from fastimae.evaluate.tasks.attention import (
    AttentionOptions,
    attention_maps,
    chosen_layers,
    draw,
    mean_distance,
    recorded_qkv,
    run,
    token_number,
)
from fastimae.settings import ConfigError


@pytest.fixture
def model():
    model = tiny_model()
    for parameter in model.parameters():  # far from uniform attention
        parameter.data.mul_(2)
    return model


@pytest.fixture
def images():
    return torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)


def test_rows_sum_to_one(model, images):
    maps = attention_maps(model, images)
    assert len(maps) == 2
    for attention in maps:
        assert attention.shape == (3, 4, 17, 17)
        assert torch.allclose(attention.sum(-1), torch.ones(3, 4, 17), atol=1e-5)
        assert attention.std() > 1e-3


def test_maps_are_softmax_of_queries_and_keys(model, images):
    """Computed from the weights, for the first block, one image and one head at a time."""
    block = model.blocks[0]
    seen = []
    hook = block.attn.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    maps = attention_maps(model, images)
    hook.remove()
    query, key, _ = torch.nn.functional.linear(
        seen[0], block.attn.qkv.weight, block.attn.qkv.bias
    ).chunk(3, dim=-1)
    for image in range(3):
        for head in range(4):
            own = slice(8 * head, 8 * head + 8)
            scores = query[image, :, own] @ key[image, :, own].T / 8**0.5
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            assert torch.allclose(maps[0][image, head], weights, atol=1e-5)


def test_maps_give_what_the_blocks_put_out(model, images):
    """Attention times values, projected, is the output of the block's attention kernel."""
    outputs = []
    hooks = [
        block.attn.register_forward_hook(lambda _m, _i, output: outputs.append(output))
        for block in model.blocks
    ]
    with recorded_qkv(model.blocks) as recorded:
        maps = attention_maps(model, images)
    for hook in hooks:
        hook.remove()
    for attention, qkv, block, output in zip(maps, recorded, model.blocks, outputs, strict=True):
        value = qkv.chunk(3, -1)[2].unflatten(-1, (4, 8)).transpose(1, 2)
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        assert torch.allclose(block.attn.proj(mixed), output, atol=1e-4)


def test_the_model_is_left_as_it_was(model, images):
    before = latents(model, images)
    attention_maps(model, images)
    assert torch.equal(latents(model, images), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_mean_distance_of_known_attention():
    grid, tokens = (2, 3), 7
    own = torch.eye(tokens).expand(1, -1, -1)
    assert mean_distance(own, grid).item() == 0
    places = np.array([(row, column) for row in range(2) for column in range(3)])
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))
    uniform = torch.full((1, tokens, tokens), 1 / tokens)
    assert mean_distance(uniform, grid).item() == pytest.approx(apart.mean(), rel=1e-6)
    corner = torch.zeros(1, tokens, tokens)
    corner[..., 0], corner[..., 1] = (
        0.6,
        0.4,
    )  # the class token is left out; patch 0
    assert mean_distance(corner, grid).item() == pytest.approx(apart[:, 0].mean(), rel=1e-6)


def test_tokens_and_layers_by_number(model):
    assert token_number(model, None) == 0
    assert token_number(model, (0, 0)) == 1 and token_number(model, (1, 2)) == 1 + 4 + 2
    with pytest.raises(ConfigError, match="--token 4 0 is outside the 4 x 4"):
        token_number(model, (4, 0))
    assert chosen_layers(model, ()) == [0, 1] and chosen_layers(model, (-1,)) == [1]
    with pytest.raises(ConfigError, match="--layers 2"):
        chosen_layers(model, (2,))


def test_heat_is_where_the_token_looks(tmp_path):
    """One head attends to the upper right patch; the picture is brightest there."""
    looks = torch.zeros(1, 1, 16)
    looks[0, 0, 3] = 1
    black = torch.zeros(64, 64, 3, dtype=torch.uint8)
    draw(black, looks, [0], (4, 4), None, tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(float).sum(-1)
    colours = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(float)
    warm = (colours[..., 0] > 120) & (colours[..., 2] < 0.6 * colours[..., 0])
    rows, columns = np.nonzero(warm)
    third = picture.shape[1] / 3  # image, mean, head 0
    last = columns > 2 * third
    assert last.sum() > 50
    middle = rows[last].mean() / picture.shape[0], (columns[last].mean() - 2 * third) / third
    assert middle[0] < 0.5 < middle[1]


def test_run_writes_pictures_and_numbers(tmp_path, image_folder):
    checkpoint = save_run(tmp_path, tiny_model())
    run(
        AttentionOptions(
            checkpoint=checkpoint, data_path=image_folder, device="cpu", num_workers=0,
            samples=3, token=(1, 2), layers=(-1,),
        )
    )  # fmt: skip
    folder = tmp_path / "eval-attention"
    numbers = json.loads((folder / "results.json").read_text())["numbers"]
    assert len(list(folder.glob("attention-*.png"))) == numbers["images"] == 3
    (row,) = numbers["table"]
    assert row["layer"] == 1
    assert 0 < row["entropy_bits"] <= np.log2(17) and 0 < row["distance_patches"] < 3 * 2**0.5
