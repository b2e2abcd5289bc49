"""The model against the float64 oracle, MAE's conventions and timm's encoder."""

import math
import operator
import re

import oracle
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastimae.engine.blocks import recompute_blocks
from fastimae.kernels import Mask, jitter_factors, jitter_patchify, random_masking
from fastimae.models import create_model, parse_name

TINY = {
    "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3,
}  # fmt: skip


def tiny(**overrides):
    return create_model("mae_vit_tiny_patch4", **{"img_size": (16, 24), **TINY, **overrides})


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_loss_and_gradients_equal_the_float64_oracle(norm_pix, channels):
    model = tiny(norm_pix_loss=norm_pix, in_chans=channels)
    images = torch.randint(0, 256, (2, 16, 24, channels), dtype=torch.uint8)
    mask = random_masking(torch.tensor([3, 4]), model.grid, 0.7)

    loss, pred, drawn = model(images, mask=mask)
    loss.backward()

    state = oracle.float64(model.state_dict())
    expected = oracle.mae_loss(
        images, mask.ids_keep.tolist(), state, patch=4, heads=2, decoder_heads=3,
        mean=model.mean, std=model.std, norm_pix=norm_pix,
    )  # fmt: skip
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-6
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(
                parameter.grad.double(), state[name].grad, rtol=1e-5, atol=1e-6, msg=name
            )
    assert pred.shape == (2, 24, 16 * channels)
    assert torch.equal(drawn, mask.mask)


def test_float_images_and_uint8_images_give_the_same_loss():
    model = tiny()
    images = torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8)
    mean, std = torch.tensor(model.mean), torch.tensor(model.std)
    floats = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    mask = random_masking(torch.arange(3), model.grid, 0.75)
    torch.testing.assert_close(model(floats, mask=mask)[0], model(images, mask=mask)[0])


def test_masked_rows_equal_the_full_decoder_rows():
    model = tiny(decoder_depth=3)
    mask = random_masking(torch.arange(4), model.grid, 0.6)
    head = torch.randn(4, 1 + mask.ids_keep.shape[1], 12)
    full = model.decode(head, mask)
    rows = model.decode(head, mask, masked_only=True)
    for b in range(4):
        torch.testing.assert_close(rows[b], full[b][mask.mask[b].bool()])


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("hidden", ["most", "few", "nothing"])
def test_rows_of_another_mask_equal_the_full_decoder_rows(depth, hidden):
    """Those of a view that shows them, and mask tokens that the first block may share."""
    model = tiny(decoder_depth=depth)
    rows = random_masking(torch.arange(4), model.grid, 0.6)
    mask = random_masking(torch.arange(4) + 9, model.grid, 0.75 if hidden == "most" else 0.3)
    if hidden == "nothing":
        mask = Mask.of_nothing(*rows.mask.shape, "cpu")
    head = torch.randn(4, 1 + mask.ids_keep.shape[1], 12)
    full, got = model.decode(head, mask), model.decode(head, mask, rows=rows)
    for b in range(4):
        torch.testing.assert_close(got[b], full[b][rows.mask[b].bool()])
    with pytest.raises(ValueError, match=r"mask.ids_keep must be \[4, K\], not \[2, "):
        model.decode(head, mask, rows=random_masking(torch.arange(2), model.grid, 0.6))


@pytest.fixture
def decoded():
    """Return a double-precision model's prediction, its gradients, and its decoder's first rows.

    The gradients are those of parameters and input; the rows are what the first norm gets.
    """

    def decode(*, depth, ratio, masked_only, recompute=False):
        torch.manual_seed(1)
        model, rows = tiny(decoder_depth=depth).double(), []
        first = model.decoder_blocks[0]
        first.register_forward_pre_hook(lambda _, args: rows.append(args[0].numel() // 12))
        if recompute:
            recompute_blocks(model)
        nn.init.normal_(model.decoder_pos_embed[:, :1])  # zeros in MAE
        mask = random_masking(torch.arange(3), model.grid, ratio)
        head = torch.randn(3, 1 + mask.ids_keep.shape[1], 12).double().requires_grad_()
        pred = model.decode(head, mask, masked_only)
        (pred * torch.randn_like(pred)).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return (pred.detach(), head.grad, *gradients.values()), rows

    return decode


@pytest.mark.parametrize("masked_only", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_sharing_mask_tokens_changes_nothing(decoded, masked_only, recompute, monkeypatch):
    options = {"depth": 2, "ratio": 0.75, "masked_only": masked_only}
    got, _ = decoded(**options, recompute=recompute)
    monkeypatch.setattr("fastimae.models.mae.SHARED_MASK_TOKENS_FROM", 2)
    expected, _ = decoded(**options)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("depth", "ratio", "masked_only", "rows"),
    [
        (2, 0.75, True, 3 * (1 + 6) + 24),
        (1, 0.75, False, 3 * (1 + 6) + 24),
        (1, 0.75, True, 3 * (1 + 24)),  # its queries are of masked rows
        (2, 0.25, True, 3 * (1 + 24)),  # few are masked
    ],
)
def test_rows_that_the_first_norm_of_the_decoder_gets(decoded, depth, ratio, masked_only, rows):
    _, seen = decoded(depth=depth, ratio=ratio, masked_only=masked_only)
    assert seen == [rows]


@pytest.mark.parametrize(
    ("patch", "size", "channels"),
    [
        (2, (32, 32), 3),
        (14, (224, 448), 3),
        (16, (448, 448), 1),
        (32, (448, 32), 6),
        (7, (49, 35), 2),
    ],
)
def test_any_patch_and_image_size(patch, size, channels):
    model = create_model(f"mae_vit_nano_patch{patch}", img_size=size, in_chans=channels)
    images = torch.randint(0, 256, (1, *size, channels), dtype=torch.uint8)
    mask = random_masking(torch.tensor([5]), model.grid, 0.75)
    patches = size[0] // patch * (size[1] // patch)
    assert mask.ids_keep.shape == (1, int(patches * 0.25))
    loss, pred, _ = model(images, mask=mask)
    pixels = torch.stack(
        oracle.patches_of(oracle.normalised(images[0], model.mean, model.std), patch)
    )
    errors = ((pred[0].double() - pixels) ** 2).mean(1)
    assert loss.item() == pytest.approx(errors[mask.mask[0].bool()].mean().item(), rel=1e-5)


def test_reconstruction_depends_on_visible_patches_only():
    model = tiny()
    images = torch.randint(0, 256, (1, 16, 24, 3), dtype=torch.uint8)
    masked = torch.ones(1, 24, dtype=torch.bool)
    masked[0, :6] = False  # the top row of patches is visible
    mask = Mask.from_bool(masked)
    changed = images.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    assert torch.equal(model(images, mask=mask)[1], model(changed, mask=mask)[1])
    changed[:, 0] = 255 - changed[:, 0]
    assert not torch.equal(model(images, mask=mask)[1], model(changed, mask=mask)[1])


@pytest.mark.parametrize("grid", [(2, 3), (4, 4)])
def test_positions_are_maes(grid):
    width = 16
    model = tiny(img_size=(grid[0] * 4, grid[1] * 4))
    table = model.pos_embed[0]
    assert not table.requires_grad and torch.equal(table[0], torch.zeros(width))
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = []
            for place in (column, row):
                angles = [place / 10000 ** (i / (width / 4)) for i in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(table[1 + row * grid[1] + column], torch.tensor(expected))


def test_state_dict_has_maes_names_and_shapes():
    state = create_model("mae_vit_base_patch16_dec512d8b").state_dict()
    expected = {
        "cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "mask_token": (1, 1, 512),
        "decoder_pos_embed": (1, 197, 512), "patch_embed.proj.weight": (768, 3, 16, 16),
        "patch_embed.proj.bias": (768,), "decoder_embed.weight": (512, 768),
        "decoder_embed.bias": (512,), "decoder_pred.weight": (768, 512),
        "decoder_pred.bias": (768,),
    }  # fmt: skip
    for prefix, depth, width in (("blocks", 12, 768), ("decoder_blocks", 8, 512)):
        for i in range(depth):
            for norm in ("norm1", "norm2"):
                for kind in ("weight", "bias"):
                    expected[f"{prefix}.{i}.{norm}.{kind}"] = (width,)
            for layer, rows, columns in (
                ("attn.qkv", 3 * width, width), ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width),
            ):  # fmt: skip
                expected[f"{prefix}.{i}.{layer}.weight"] = (rows, columns)
                expected[f"{prefix}.{i}.{layer}.bias"] = (rows,)
    for norm, width in (("norm", 768), ("decoder_norm", 512)):
        expected |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.parametrize("space", ["decoder", "encoder"])
def test_two_heads_are_named_as_in_imae(space):
    names = set(tiny(heads=2, head_space=space).state_dict()) - set(tiny().state_dict())
    assert names == {f"decoder_embed{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}
    assert ("decoder_embed.weight" in tiny(heads=2, head_space=space).state_dict()) == (
        space == "encoder"
    )


def test_every_parameter_is_initialised():
    model = tiny(heads=2, head_space="encoder")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    model.reset_parameters()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name


def test_initialisation_is_maes():
    torch.manual_seed(0)
    model = create_model("mae_vit_small_patch16")
    embed = model.patch_embed.proj.weight.flatten(1)
    for weight in (embed, model.blocks[0].mlp.fc1.weight, model.decoder_pred.weight):
        bound = math.sqrt(6 / sum(weight.shape))  # xavier-uniform
        assert weight.abs().max() <= bound and weight.abs().max() > 0.99 * bound
    assert abs(model.cls_token.std() - 0.02) < 0.004
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert not module.bias.any()
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6


def test_encoder_gives_timms_features():
    timm = pytest.importorskip("timm")
    model = create_model("mae_vit_tiny_patch16", img_size=64).eval()
    other = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    shared = {
        k: v for k, v in model.state_dict().items() if "decoder" not in k and k != "mask_token"
    }
    other.load_state_dict(shared, strict=True)
    floats = torch.randn(2, 3, 64, 64)
    every = torch.arange(16, dtype=torch.int32).expand(2, -1)
    features = model.encode(model.patchify(floats), every)
    torch.testing.assert_close(features, other.forward_features(floats), rtol=1e-4, atol=1e-4)


def test_patchify_orders_pixels_row_column_channel():
    model = tiny()
    images = torch.randn(2, 3, 16, 24)
    patches = model.patchify(images)
    expected = oracle.patches_of(images[1].permute(1, 2, 0), 4)
    assert torch.equal(patches[1], torch.stack(expected))
    assert torch.equal(model.unpatchify(patches), images)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mae_vit_huge_patch14", {"patch_size": 14}),
        ("mae_vit_huge_patch2", {"patch_size": 2}),
        (
            "mae_vit_huge_patch32_dec256d4b",
            {"patch_size": 32, "decoder_embed_dim": 256, "decoder_depth": 4},
        ),
    ],
)
def test_names_give_the_patch_and_the_decoder(name, sizes):
    """The published sizes are in tests/test_published.py."""
    assert parse_name(name) == {**parse_name("mae_vit_huge_patch16"), **sizes}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "vit_base"}, "--model vit_base is not known: did you mean mae_vit_base_patch16?"),
        ({"name": "mae_vit_tinny_patch8"}, "did you mean mae_vit_tiny_patch8?"),
        ({"name": "vit_huge_patch14_224"}, "did you mean mae_vit_huge_patch14?"),
        ({"name": "mae_vit_giant_patch14"}, "is not known: use mae_vit_SIZE_patchN"),
        ({"name": "mae-vit-large-patch99"}, "did you mean mae_vit_large_patch16?"),
        ({"name": "resnet50"}, "is not known: use mae_vit_SIZE_patchN"),
        ({"name": "mae_vit_base_patch64"}, "N from 2 to 32"),
        ({"img_size": 30}, "--input_size 30x30 is not a multiple of the patch size 4"),
        ({"in_chans": 4, "mean": (0.5,)}, "mean has 1 values, and images have 4 channels"),
        ({"decoder_num_heads": 5}, "decoder_embed_dim 192 is not a multiple"),
        ({"std": (0.0, 1.0, 1.0)}, "std must be positive"),
    ],
)
def test_wrong_sizes_are_named(settings, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        create_model(**{"name": "mae_vit_tiny_patch4", "img_size": 32, **settings})


def test_a_model_with_two_heads_names_what_to_use():
    with pytest.raises(TypeError, match=r"objectives\.IMAE"):
        tiny(heads=2)(torch.zeros(1, 16, 24, 3, dtype=torch.uint8))


def test_the_sum_between_two_blocks_is_compiled_with_the_norm_that_follows():
    """Otherwise each block would write the residual stream for the next to read.

    No block gets a compilation of its own for this.
    """
    model = create_model("mae_vit_nano_patch8", img_size=32, decoder_depth=3)
    graphs = []

    def note(graph, inputs):
        graphs.append(graph.graph)
        return graph.forward

    for block in (*model.blocks, *model.decoder_blocks):
        block.compile(fullgraph=True, dynamic=False, backend=note)
    mask = random_masking(torch.arange(2), model.grid, 0.75)
    (patches,) = model.visible_patches(torch.rand(2, 32, 32, 3), mask)
    head = model.split(model.encode(patches, mask.ids_keep))[0]
    model.decode(head, mask, masked_only=True)
    assert len(graphs) == 4, "encoder blocks, and the decoder's first, last and other ones"
    for graph in graphs:
        norms = [node for node in graph.nodes if node.target is F.layer_norm]
        assert [node.args[0].target for node in norms] == [operator.add, operator.add]


def test_visible_patches_are_jittered_or_mixed():
    """In the dtype that the encoder computes in."""
    model, keys = tiny(), torch.arange(3)
    images = torch.randint(0, 256, (3, 16, 24, 3), dtype=torch.uint8)
    mask, factors = random_masking(keys, model.grid, 0.5), jitter_factors(keys, 0.4)
    with torch.autocast("cpu", torch.bfloat16):
        (got,) = model.visible_patches(images, mask, jitter=factors)
    args = (images, mask.ids_keep, factors, 4, model.mean, model.std)
    assert torch.equal(got, jitter_patchify(*args, dtype=torch.bfloat16))
    (plain,) = model.visible_patches(images, mask)
    assert not torch.allclose(got.float(), plain, atol=0.1)
    with pytest.raises(ValueError, match="with jitter take no partner, alpha"):
        model.visible_patches(images, mask, jitter=factors, partner=keys, alpha=torch.rand(3))
