"""Attention maps against the attention that the model computes."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_run, tiny_model
from undrawn import undrawn

from fastimae.engine.checkpoint import load_checkpoint, save_checkpoint
from fastimae.evaluate.features import latents
from fastimae.evaluate.figures.attention_maps import (
    attention_maps,
    chosen_layers,
    mean_distance,
    measure,
    most_attended,
    recorded_qkv,
    same_place,
    seen_by,
    token_number,
)
from fastimae.evaluate.figures.attention_pictures import View, draw, draw_side_by_side
from fastimae.evaluate.options.figures import AttentionOptions
from fastimae.evaluate.tasks.attention import run
from fastimae.pictures.plots import PHOTOGRAPHS
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
            samples=2, token=(1, 2), layers=(-1,),
        )
    )  # fmt: skip
    folder = tmp_path / "eval-attention"
    numbers = json.loads((folder / "results.json").read_text())["numbers"]
    assert len(list(folder.glob("attention-*.png"))) == 2 and (folder / "attention.png").is_file()
    (row,) = numbers["table"]
    assert row["layer"] == 1 and "model" not in row and numbers["images"] == 48
    assert 0 < row["entropy_bits"] <= np.log2(17) and 0 < row["distance_patches"] < 3 * 2**0.5
    assert row["distance_pixels"] == pytest.approx(8 * row["distance_patches"])


def fewest_that_hold(weights, mass):
    """Sort, then add up in Python until the mass is reached; of equal weights the first counts."""
    order = sorted(range(len(weights)), key=lambda place: (-weights[place], place))
    kept, held = set(), Fraction(0)
    for place in order:
        if held >= Fraction(mass) * sum(map(Fraction, weights)):
            break
        kept.add(place)
        held += Fraction(weights[place])
    return [place in kept for place in range(len(weights))]


def test_the_patches_that_hold_the_mass_are_the_fewest():
    rng = np.random.default_rng(0)
    for mass in (0.25, 0.6, 0.95):
        weights = rng.exponential(size=(20, 3, 49)) ** 2
        found = most_attended(torch.from_numpy(weights), mass)
        expected = [[fewest_that_hold(row, mass) for row in image] for image in weights.tolist()]
        assert found.tolist() == expected
        held = (weights * found.numpy()).sum(-1) / weights.sum(-1)
        assert (held >= mass).all()
        ascending = np.sort(weights, axis=-1)  # the rule of DINO: drop the smallest 1 - mass
        dropped = ascending.cumsum(-1) <= (1 - mass) * ascending.sum(-1, keepdims=True)
        assert (found.sum(-1).numpy() == 49 - dropped.sum(-1)).all()


def test_equal_weights_are_kept_from_the_first_on():
    weights = [2.0, 1.0, 4.0, 1.0, 1.0, 1.0]
    for mass, kept in ((0.4, "2"), (0.6, "02"), (0.61, "012"), (0.7, "012"), (0.75, "0123")):
        expected = [str(place) in kept for place in range(6)]
        assert most_attended(torch.tensor(weights), mass).tolist() == expected
        assert fewest_that_hold(weights, Fraction(str(mass))) == expected
    even = torch.full((10,), 0.1)  # whose sums are not exact
    assert [int(most_attended(even, tenths / 10).sum()) for tenths in range(1, 11)] == list(
        range(1, 11)
    )
    assert most_attended(torch.tensor([0.0, 0.0, 1.0]), 1.0).all()
    assert most_attended(torch.tensor([0.0, 0.0, 1.0]), 0.99).tolist() == [False, False, True]


def test_the_map_is_the_papers(model, images):
    """Appendix C.4: the mean over heads for the class token, the first head for an object's."""
    last = attention_maps(model, images)[-1]
    assert torch.equal(seen_by(last, 0), last[:, :, 0, 1:].mean(1))
    assert torch.equal(seen_by(last, 6), last[:, 0, 6, 1:])


def test_widths_follow_their_formulas(model, images):
    attention = attention_maps(model, images)[0]
    for token in (0, 5):
        found = measure(attention, token, (4, 4), 0.6)
        for image in range(3):
            rows = attention[image, :, token].double().numpy()
            entropy = -(rows * np.log2(rows)).sum(-1).mean()
            assert found["entropy_bits"][image].item() == pytest.approx(entropy, rel=1e-5)
            shares = [np.mean(fewest_that_hold(row, 0.6)) for row in rows[:, 1:].tolist()]
            assert found["patch_share"][image].item() == pytest.approx(np.mean(shares))
            drawn = rows[:, 1:].mean(0) if token == 0 else rows[0, 1:]
            share = np.mean(fewest_that_hold(drawn.tolist(), 0.6))
            assert found["patch_share_drawn"][image].item() == pytest.approx(share)
            distance = mean_distance(attention[image], (4, 4)).mean()
            assert found["distance_patches"][image].item() == pytest.approx(distance.item())


def test_a_patch_is_where_it_is_in_models_of_other_patch_sizes():
    coarse, fine = tiny_model(), tiny_model(patch_size=4)
    assert same_place((1, 2), coarse, coarse) == (1, 2)
    assert same_place((1, 2), coarse, fine) == (3, 5)
    assert same_place((3, 5), fine, coarse) == (1, 2)
    assert same_place(None, coarse, fine) is None
    for of, model in ((coarse, coarse), (coarse, fine), (fine, coarse)):
        with pytest.raises(ConfigError, match="--token -1 0 is outside"):
            same_place((-1, 0), of, model)


def test_patches_that_are_not_kept_stay_gray(tmp_path):
    image = torch.full((64, 64, 3), 128, dtype=torch.uint8)
    weights = torch.linspace(0, 1, 16)
    kept = torch.zeros(16, dtype=torch.bool)
    kept[5] = True
    view = View(weights, kept, (4, 4), None, 1)
    draw_side_by_side([(image, [view])], ["one"], 0.6, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        boxes = json.loads(picture.text[PHOTOGRAPHS])
        colours = np.asarray(picture.convert("RGB")).astype(int)
    left, top, right, bottom = boxes[-1]
    coloured = np.ptp(colours, axis=-1) > 30
    for place in range(16):
        row, column = divmod(place, 4)
        y = int(top + (row + 0.5) * (bottom - top) / 4)
        x = int(left + (column + 0.5) * (right - left) / 4)
        assert coloured[y, x] == (place == 5)


def side_by_side(tmp_path, image_folder, **changes):
    """Run on a model, one with other weights, and one that has an encoder only."""
    torch.manual_seed(0)
    first = save_run(tmp_path / "mae", tiny_model(), mask_ratio=0.75)
    second = save_run(tmp_path / "other", tiny_model(depth=3), mask_ratio=0.5)
    encoder = tiny_model(patch_size=4)
    third = save_run(tmp_path / "encoder", encoder, mask_ratio=0.75)
    content = load_checkpoint(third)
    content["model"] = {
        name: value for name, value in content["model"].items()
        if not name.startswith(("decoder", "mask_token"))
    }  # fmt: skip
    save_checkpoint(third, content)
    options = AttentionOptions(
        checkpoint=first, others=(second, third), data_path=image_folder, device="cpu",
        num_workers=0, samples=2, measured=5, output_dir=tmp_path / "out", **changes,
    )  # fmt: skip
    run(options)
    return json.loads((tmp_path / "out" / "results.json").read_text())


@undrawn()
def test_models_side_by_side_see_the_same_images(tmp_path, image_folder):
    results = side_by_side(tmp_path, image_folder, token=(1, 1))
    table = results["numbers"]["table"]
    assert [(row["model"], row["layer"]) for row in table] == [
        *(("mae", layer) for layer in range(2)),
        *(("other", layer) for layer in range(3)),
        *(("encoder", layer) for layer in range(2)),
    ]
    assert results["numbers"]["images"] == 5
    assert results["pictures"] == ["attention.png", "attention_width.png"]
    alone = AttentionOptions(
        checkpoint=tmp_path / "other" / "checkpoint-last.pth", data_path=image_folder,
        device="cpu", num_workers=0, samples=2, measured=5, token=(1, 1),
        output_dir=tmp_path / "alone",
    )  # fmt: skip
    run(alone)
    found = json.loads((tmp_path / "alone" / "results.json").read_text())["numbers"]["table"]
    assert [{**row, "model": "other"} for row in found] == table[2:5]


def test_models_of_other_images_cannot_be_side_by_side(tmp_path, image_folder):
    first = save_run(tmp_path / "mae", tiny_model())
    for name, what, changes in (
        ("large", "image size (64, 64)", {"img_size": 64}),
        ("gray", "channels (1)", {"in_chans": 1}),
    ):
        other = save_run(tmp_path / name, tiny_model(**changes))
        options = AttentionOptions(
            checkpoint=first, others=(other,), data_path=image_folder, device="cpu", num_workers=0
        )
        with pytest.raises(ConfigError) as caught:
            run(options)
        assert f"--others {other} has another {what} than --checkpoint {first}" in str(caught.value)
