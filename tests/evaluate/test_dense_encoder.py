"""DenseEncoder: values of pre-training, windows against a plain reference, sizes, training."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model

from fastimae.engine.blocks import blocks, compile_blocks, recompute_blocks
from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.evaluate.dense.layer_decay import encoder_groups
from fastimae.evaluate.dense.windows import from_windows, to_windows
from fastimae.interop.finetuned import add_fc_norm
from fastimae.models.sizes import global_blocks_of

CLOSE = {"rtol": 0, "atol": 2e-6}
DEPTH, HEADS = 3, 4


def encoder_of(**sizes):
    """Make an encoder in which no norm or bias is trivial, and whose positions were trained."""
    torch.manual_seed(0)
    model = tiny_model(**{"depth": DEPTH, "num_heads": HEADS, "decoder": False, **sizes})
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def pixels(*size, count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def tokens_as_map(tokens, model, grid):
    return tokens[:, model.class_tokens :].mT.unflatten(-1, grid)


@pytest.mark.parametrize("sizes", [{}, {"class_tokens": 3}, {"img_size": (16, 40)}])
@pytest.mark.parametrize("norm", [True, False])
def test_frozen_maps_are_the_features_of_pre_training(sizes, norm):
    model, layers = encoder_of(**sizes), (1, -1, 0)
    dense = DenseEncoder(model, model.img_size, layers=layers, norm=norm).requires_grad_(False)
    imgs = pixels(*model.img_size)
    with torch.no_grad():
        maps = dense(imgs)
        expected = model.forward_features(imgs, layers=layers, norm=norm)
    assert len(maps) == 3
    for found, tokens in zip(maps, expected, strict=True):
        assert torch.equal(found, tokens_as_map(tokens, model, model.grid))
    own = model.state_dict()
    assert all(torch.equal(v, own[name]) for name, v in dense.state_dict().items())


def test_a_model_that_was_fine_tuned_on_the_mean_has_no_norm():
    model = encoder_of()
    add_fc_norm(model, keep_norm=False)
    dense, imgs = DenseEncoder(model, (32, 32)), pixels(32, 32)
    expected = tokens_as_map(model.forward_features(imgs), model, model.grid)
    assert torch.equal(dense(imgs)[0], expected)
    assert not any("norm." in name and "blocks" not in name for name in dense.state_dict())


def test_blocks_after_the_last_layer_are_left_out():
    dense = DenseEncoder(encoder_of(), (32, 32), layers=(0, 1))
    assert dense.depth == len(dense.blocks) == 2
    for wrong in ({"layers": (3,)}, {"layers": (1,), "window": 2, "global_blocks": (2,)}):
        with pytest.raises(ValueError, match="there is no block"):
            DenseEncoder(encoder_of(), (32, 32), **wrong)
    with pytest.raises(ValueError, match="window must be 1 patch or more"):
        DenseEncoder(encoder_of(), (32, 32), window=0)


def attend(qkv, rows, attn):
    """Attend one image's normed tokens `rows`, [N, D], to each other, head by head."""
    q, k, v = F.linear(rows, qkv.weight, qkv.bias).chunk(3, dim=-1)
    width = rows.shape[-1] // HEADS
    out = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        out.append(scores.softmax(-1) @ v[:, part])
    return F.linear(torch.cat(out, -1), attn.proj.weight, attn.proj.bias)


def windowed_reference(model, imgs, window, global_blocks, positions):
    """Compute ViTDet's backbone of one image in float64, a window at a time: [D, H, W]."""
    x = F.conv2d(imgs, model.patch_embed.proj.weight, model.patch_embed.proj.bias, stride=8)[0]
    height, width = x.shape[1:]
    x = x.permute(1, 2, 0) + positions.unflatten(0, (height, width))
    for number, block in enumerate(model.blocks):
        normed, change = block.norm1(x), torch.zeros_like(x)
        if number in global_blocks:
            change = attend(block.attn.qkv, normed.flatten(0, 1), block.attn).view_as(x)
        else:
            for top in range(0, height, window):
                for left in range(0, width, window):
                    here = slice(top, top + window), slice(left, left + window)
                    own = normed[here]
                    full = torch.zeros(window, window, x.shape[-1], dtype=x.dtype)
                    full[: own.shape[0], : own.shape[1]] = own
                    done = attend(block.attn.qkv, full.flatten(0, 1), block.attn)
                    done = done.view_as(full)[: own.shape[0], : own.shape[1]]
                    change = change.index_put(
                        (torch.arange(height)[here[0], None], torch.arange(width)[None, here[1]]),
                        done,
                    )
        x = x + change
        hidden = F.gelu(F.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias))
        x = x + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
    return model.norm(x).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "window"), [((32, 32), 2), ((40, 56), 3), ((16, 48), 4), ((24, 24), 5)]
)
def test_windows_and_all_gradients_equal_a_loop_over_windows(size, window):
    """Ragged grids are filled up with zeros after the norm; class tokens take no part."""
    model = encoder_of(img_size=size, class_tokens=2)
    dense = DenseEncoder(model, size, window=window, global_blocks=(1,))
    imgs = pixels(*size, count=1)
    weight = torch.randn(32, *model.grid, generator=torch.Generator().manual_seed(2))
    (found,) = dense(imgs)
    (found[0] * weight).sum().backward()
    reference = model.double().requires_grad_(True)
    positions = reference.pos_embed[0, 2:]
    expected = windowed_reference(reference, imgs.double(), window, (1,), positions)
    (expected * weight).sum().backward()
    torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=1e-5)
    theirs = dict(reference.named_parameters())
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), theirs[name].grad, rtol=1e-4, atol=1e-4, msg=name
        )
    assert not dense.pos_embed.grad[:, :2].any()


def test_with_windows_every_parameter_is_used():
    """DDP waits for the gradient of each; the class token stays in the state dict, as it was."""
    model = encoder_of()
    dense = DenseEncoder(model, (32, 32), window=2, global_blocks=())
    dense(pixels(32, 32))[0].sum().backward()
    assert all(p.grad is not None for p in dense.parameters())
    assert "cls_token" not in dict(dense.named_parameters())
    assert dense.state_dict().keys() == DenseEncoder(model, (32, 32)).state_dict().keys()


def test_a_window_of_the_whole_grid_is_global_attention():
    model, imgs = encoder_of(), pixels(32, 32)
    windows = DenseEncoder(model, (32, 32), window=4, global_blocks=())(imgs)[0]
    everywhere = DenseEncoder(model, (32, 32), window=2, global_blocks=(0, 1, -1))(imgs)[0]
    torch.testing.assert_close(windows, everywhere, **CLOSE)


def test_windows_are_cut_and_joined():
    x = torch.arange(2 * 5 * 7.0).view(2, 5, 7, 1)
    windows = to_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 1)
    assert torch.equal(windows[1, :, 0].view(3, 3), x[0, :3, 3:6, 0])
    last = torch.zeros(3, 3)
    last[:2, :1] = x[1, 3:, 6:, 0]
    assert torch.equal(windows[-1, :, 0].view(3, 3), last)
    assert torch.equal(from_windows(windows, 3, (5, 7)), x)
    assert global_blocks_of(12) == [2, 5, 8, 11] and global_blocks_of(24) == [5, 11, 17, 23]
    assert global_blocks_of(2) == [0, 1] and global_blocks_of(1) == [0]


@pytest.mark.parametrize("window", [None, 2])
def test_positions_are_resized_as_timm_does(window):
    resample_abs_pos_embed = pytest.importorskip("timm.layers").resample_abs_pos_embed
    model = encoder_of(class_tokens=2)
    dense = DenseEncoder(model, (48, 64), window=window)
    expected = resample_abs_pos_embed(
        model.pos_embed, new_size=[6, 8], old_size=[4, 4], num_prefix_tokens=2
    )
    assert torch.equal(dense.pos_embed, expected) and dense.pos_embed.requires_grad
    imgs = pixels(40, 24)
    larger = DenseEncoder(model, (40, 24), window=window)
    larger.load_state_dict(dense.state_dict() | {
        "pos_embed": resample_abs_pos_embed(
            dense.pos_embed, new_size=[5, 3], old_size=[6, 8], num_prefix_tokens=2
        )
    })  # fmt: skip
    torch.testing.assert_close(dense(imgs)[0], larger(imgs)[0], **CLOSE)
    dense(imgs)[0].square().sum().backward()
    assert dense.pos_embed.grad[:, 2:].any()


def test_wrong_images_are_named():
    dense = DenseEncoder(encoder_of(), (32, 32))
    with pytest.raises(ValueError, match="36x32 is not a multiple of the patch size 8"):
        dense(pixels(36, 32))
    with pytest.raises(ValueError, match="imgs"):
        dense(torch.randn(1, 4, 32, 32))


@pytest.mark.parametrize("window", [None, 3])
def test_drop_path_is_a_function_of_the_key(window):
    dense = DenseEncoder(encoder_of(), (32, 40), window=window, drop_path=0.6, global_blocks=(1,))
    key, imgs = torch.arange(6) + 100, pixels(32, 40, count=6)
    plain = dense.eval()(imgs)[0]
    (found,) = dense.train()(imgs, key)
    other, back = dense(imgs.flip(0), key.flip(0))[0].flip(0), dense(imgs, key + 1)[0]
    torch.testing.assert_close(found, other, **CLOSE)
    assert not torch.allclose(found, back, atol=1e-3)
    assert not any(torch.allclose(found[i], plain[i], atol=1e-3) for i in range(6))
    with torch.no_grad():
        assert torch.equal(dense(imgs)[0], plain)
    with pytest.raises(ValueError, match="give key in training"):
        dense(imgs)


@pytest.mark.parametrize(
    ("change", "window"),
    [
        (recompute_blocks, None),
        (recompute_blocks, 3),
        (partial(compile_blocks, backend="eager"), 3),
    ],
    ids=["recomputed", "recomputed windows", "compiled windows"],
)
def test_recomputed_and_compiled_blocks_give_the_same(change, window):
    """The backward pass comes after images of another size: blocks hold no grid."""
    results = []
    for changed in (False, True):
        dense = DenseEncoder(encoder_of(), (32, 40), window=window, global_blocks=(1,))
        model = torch.nn.ModuleDict({"backbone": dense})
        if changed:
            change(model)
            assert len(list(blocks(model))) == DEPTH
        maps = [dense(pixels(*size))[0] for size in ((32, 40), (24, 16))]
        sum(each.square().sum() for each in maps).backward()
        results.append([*maps, *(p.grad for p in dense.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_weights_of_another_format():
    model, imgs = encoder_of(), pixels(48, 32)
    dense = DenseEncoder(model, (32, 32), window=2)
    plain = dense(imgs)[0]
    with torch.autocast("cpu", torch.bfloat16):
        low = dense(imgs)[0]
    torch.testing.assert_close(low.float(), plain, rtol=0, atol=0.1)
    low = dense.bfloat16()(imgs)[0]
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), plain, rtol=0, atol=0.1)


def test_layers_decay_within_a_larger_model():
    model = torch.nn.ModuleDict(
        {"backbone": DenseEncoder(encoder_of(), (32, 32)), "head": torch.nn.Conv2d(32, 2, 1)}
    )
    model["backbone"].blocks[0].requires_grad_(False)
    groups = encoder_groups(model, 0.1, 0.5, prefix="backbone.")
    found = {id(p): (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    parameters = dict(model.named_parameters())
    expected = {
        "backbone.pos_embed": (1 / 16, 0), "backbone.cls_token": (1 / 16, 0),
        "backbone.patch_embed.proj.weight": (1 / 16, 0.1),
        "backbone.blocks.1.attn.qkv.weight": (1 / 4, 0.1),
        "backbone.blocks.2.attn.qkv.bias": (1 / 2, 0), "backbone.norm.weight": (1, 0),
        "head.weight": (1, 0.1), "head.bias": (1, 0),
    }  # fmt: skip
    for name, values in expected.items():
        assert found[id(parameters[name])] == values, name
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(found) == len(trained) < len(parameters)
    alone = encoder_groups(model["backbone"], 0.1, 0.5)
    assert sum(len(g["params"]) for g in alone) == len(trained) - 2
