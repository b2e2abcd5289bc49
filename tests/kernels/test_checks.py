"""Tensors that do not fit together: every op and its specification refuse them in one line."""

import inspect

import pytest
import torch

from fastimae import kernels
from fastimae.kernels import (
    Mask,
    PixelStore,
    drop_in,
    random_masking,
    reference,
    reference_colors,
    reference_crops,
    resize_taps,
)
from fastimae.kernels.rows import masked_rows, visible_rows

STATISTICS = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
LONG, INT, BYTE, DEEP = torch.int64, torch.int32, torch.uint8, torch.uint16
SIDES = torch.full((2,), 6, dtype=INT)
STORE = PixelStore.of([torch.zeros(6, 6, 3, dtype=BYTE)] * 2)


def arguments(op):
    """Return an op's arguments: 2 images of 4 x 6 pixels, patches of 2 x 2, 2 of 6 visible."""
    images = {"images": torch.zeros(2, 4, 6, 3, dtype=BYTE), "patch_size": 2, **STATISTICS}
    return {
        "mix_patchify": {
            **images, "ids_keep": torch.zeros(2, 2, dtype=INT),
            "partner": torch.tensor([1, 0]), "alpha": torch.rand(2),
        },
        "masked_l2": {
            **images, "pred": torch.zeros(2, 4, 12), "target": torch.arange(2),
            "ids_masked": torch.zeros(2, 4, dtype=INT), "norm_pix": False,
        },
        "assemble_tokens": {
            "x": torch.zeros(2, 3, 8), "mask_token": torch.zeros(1, 1, 8),
            "positions": torch.zeros(1, 7, 8), "ids_restore": torch.arange(6).repeat(2, 1),
        },
        "add_norm": {
            "x": torch.zeros(2, 3, 8), "change": torch.zeros(2, 3, 8), "bias": torch.zeros(8),
            "weight": torch.zeros(8), "norm_bias": torch.zeros(8), "eps": 1e-6,
        },
        "latent_l2": {"student": torch.zeros(2, 3, 8), "teacher": torch.zeros(2, 3, 8)},
        "pair_l2": {
            "first": torch.zeros(2, 3, 8), "second": torch.zeros(2, 3, 8),
            "kept": torch.ones(2, 3, dtype=torch.bool),
        },
        "attention": {"qkv": torch.zeros(2, 5, 3, 2, 8), "bias": torch.zeros(48)},
        "mlp": {
            "x": torch.zeros(2, 3, 8), "weight1": torch.zeros(16, 8), "bias1": torch.zeros(16),
            "weight2": torch.zeros(4, 16), "bias2": torch.zeros(4),
        },
        "mixing_ratio": {"key": torch.arange(2), "quantiles": torch.linspace(0, 1, 4097)},
        "jitter_factors": {"key": torch.arange(2), "strength": 0.4},
        "color_jitter": {"images": images["images"], "factors": torch.ones(2, 6)},
        "jitter_patchify": {
            **images, "ids_keep": torch.zeros(2, 2, dtype=INT), "factors": torch.ones(2, 6),
        },
        "random_masking": {"key": torch.arange(2), "grid": (2, 3), "mask_ratio": 0.5},
        "draw_windows": {
            "key": torch.arange(2), "height": SIDES, "width": SIDES, "scale": (0.2, 1.0),
            "ratio": (0.75, 1.5),
        },
        "crop_resize": {
            "store": STORE, "index": torch.arange(2), "window": torch.ones(2, 4, dtype=INT),
            "flip": torch.ones(2, dtype=torch.bool), "taps": resize_taps(6, (2, 2)),
        },
    }[op]  # fmt: skip


SPECIFICATIONS = (reference, reference_colors, reference_crops)


def ways(op):
    """Return the op in torch, and its specification where that is a function."""
    found = [lambda **kwargs: getattr(kernels, op)(**kwargs, impl="torch")]
    specified = [getattr(file, op) for file in SPECIFICATIONS if hasattr(file, op)]
    return [*found, *specified]


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


WRONG = [
    ("mix_patchify", {"images": zeros(3, 4, 6, 3, dtype=BYTE)}, "ids_keep must be [3, K], not [2"),
    ("mix_patchify", {"images": zeros(2, 5, 6, 3, dtype=BYTE)}, "2 does not divide images of 5x6"),
    ("mix_patchify", {"ids_keep": zeros(2, 7, dtype=INT)}, "has 7 patches, but images have only 6"),
    ("mix_patchify", {"ids_keep": zeros(2, 2)}, "ids_keep must be int32 or int64"),
    ("mix_patchify", {"partner": zeros(3, dtype=LONG)}, "partner must be [2], not [3]"),
    ("mix_patchify", {"partner": zeros(2, dtype=INT)}, "partner must be int64, not int32"),
    ("mix_patchify", {"alpha": zeros(2, 1)}, "alpha must be [2], not [2, 1]"),
    ("masked_l2", {"pred": zeros(2, 4, 48)}, "pred must be [B, M, 12], not [2, 4, 48]"),
    ("masked_l2", {"pred": zeros(2, 4, 12, dtype=LONG)}, "pred must be a float tensor"),
    ("masked_l2", {"target": zeros(3, dtype=LONG)}, "target must be [2], not [3]"),
    (
        "masked_l2",
        {"images": zeros(0, 4, 6, 3, dtype=BYTE)},
        "pred has 2 rows, but there are no images",
    ),
    ("masked_l2", {"ids_masked": zeros(2, 5, dtype=INT)}, "ids_masked must be [2, 4], not [2, 5]"),
    (
        "masked_l2",
        {"pred": zeros(2, 7, 12), "ids_masked": zeros(2, 7, dtype=INT)},
        "ids_masked has 7 patches, but images have only 6",
    ),
    ("masked_l2", {"ignore_boundary": 3}, "ignore_boundary must be in 0..2 (P), not 3"),
    ("masked_l2", {"ignore_boundary": -1}, "ignore_boundary must be in 0..2 (P), not -1"),
    ("masked_l2", {"kept": zeros(2, 3, dtype=torch.bool)}, "kept must be [2, 4], not [2, 3]"),
    (
        "masked_l2",
        {"kept": zeros(2, 4, dtype=torch.bool), "ignore_boundary": 1},
        "ignore_boundary and kept exclude each other",
    ),
    ("assemble_tokens", {"x": zeros(2, 0, 8)}, "do not fit together"),
    ("assemble_tokens", {"x": zeros(2, 8)}, "do not fit together"),
    ("assemble_tokens", {"ids_restore": zeros(2, 6)}, "ids_restore must be int32 or int64"),
    ("assemble_tokens", {"ids_restore": zeros(12, dtype=INT)}, "do not fit together"),
    ("add_norm", {"change": zeros(2, 1, 8)}, "x [2, 3, 8] and change [2, 1, 8] must have"),
    ("add_norm", {"x": zeros(2, 3, 8, dtype=LONG)}, "x must be a float tensor"),
    ("add_norm", {"bias": zeros(1, 8)}, "bias must be [8], not [1, 8]"),
    ("add_norm", {"weight": zeros(9)}, "weight must be [8], not [9]"),
    ("latent_l2", {"teacher": zeros(2, 3, 9)}, "[2, 3, 8] and teacher [2, 3, 9] differ"),
    ("latent_l2", {"teacher": zeros(2, 3, 8, dtype=LONG)}, "teacher must be a float tensor"),
    ("pair_l2", {"second": zeros(2, 3, 9)}, "second must be [2, 3, 8], not [2, 3, 9]"),
    ("pair_l2", {"second": zeros(2, 3, 8, dtype=BYTE)}, "second must be float32, not uint8"),
    ("pair_l2", {"kept": zeros(2, 3)}, "kept must be bool, not float32"),
    ("attention", {"qkv": zeros(2, 5, 48)}, "must be [B, N, 3, h, d], not [2, 5, 48]"),
    ("attention", {"qkv": zeros(2, 5, 3, 2, 8, dtype=LONG)}, "qkv must be a float tensor"),
    ("attention", {"bias": zeros(3, 2, 8)}, "bias must be [48], not [3, 2, 8]"),
    ("attention", {"bias": zeros(48, dtype=LONG)}, "bias must be a float tensor"),
    ("mlp", {"x": zeros(2, 3, 7)}, "weight1 must be [H, 7], not [16, 8]"),
    ("mlp", {"x": zeros(2, 3, 8, dtype=LONG)}, "x must be a float tensor"),
    ("mlp", {"x": zeros()}, "x must be [..., d], not a scalar"),
    ("mlp", {"bias1": zeros(8)}, "bias1 must be [16], not [8]"),
    ("mlp", {"weight2": zeros(4, 8)}, "weight2 must be [d, 16], not [4, 8]"),
    ("mlp", {"bias2": zeros(16)}, "bias2 must be [4], not [16]"),
    ("mixing_ratio", {"key": zeros(2, dtype=INT)}, "key must be int64, not int32"),
    ("mixing_ratio", {"key": zeros(2, 1, dtype=LONG)}, "key must be [B], not [2, 1]"),
    ("jitter_factors", {"key": zeros(2, dtype=INT)}, "key must be int64, not int32"),
    ("color_jitter", {"images": zeros(2, 4, 6, 1, dtype=BYTE)}, "needs RGB images, not 1 channels"),
    ("color_jitter", {"images": zeros(2, 4, 6, 3)}, "must be uint8, values 0 to 255, not"),
    ("color_jitter", {"images": zeros(4, 6, 3, dtype=BYTE)}, "images must be [B, H, W, C], not"),
    ("color_jitter", {"factors": zeros(3, 6)}, "factors must be [2, 6], not [3, 6]"),
    ("color_jitter", {"factors": zeros(2, 6, dtype=LONG)}, "factors must be float32, not int64"),
    ("color_jitter", {"images": zeros(2, 4, 6, 3, dtype=DEEP)}, "0 to 255, not torch.uint16"),
    ("jitter_patchify", {"images": zeros(2, 4, 6, 3)}, "must be uint8, values 0 to 255, not"),
    ("jitter_patchify", {"factors": zeros(2, 5)}, "factors must be [2, 6], not [2, 5]"),
    ("jitter_patchify", {"ids_keep": zeros(3, 2, dtype=INT)}, "ids_keep must be [2, K], not [3"),
    ("jitter_patchify", {"ids_keep": zeros(2, 7, dtype=INT)}, "but images have only 6"),
    ("jitter_patchify", {"patch_size": 5}, "5 does not divide images of 4x6"),
    ("jitter_patchify", {"mean": (0.5,)}, "mean and std need a value for each of 3 channels"),
    ("random_masking", {"key": zeros(2)}, "key must be int64, not float32"),
    ("random_masking", {"key": zeros(2, 1, dtype=LONG)}, "key must be [B], not [2, 1]"),
    ("random_masking", {"unit": 0}, "a mask unit of 0 patches"),
    ("draw_windows", {"key": zeros(2, dtype=INT)}, "key must be int64, not int32"),
    ("draw_windows", {"height": zeros(3, dtype=INT)}, "height must be [2], not [3]"),
    ("draw_windows", {"width": zeros(2, dtype=LONG)}, "width must be int32, not int64"),
    ("draw_windows", {"scale": (0.5, 1.5)}, "scale (0.5, 1.5) must satisfy 0 < low <= high <= 1"),
    ("draw_windows", {"ratio": (2, 1)}, "ratio (2, 1) must satisfy 0 < low <= high, both finite"),
    ("crop_resize", {"index": zeros(2, dtype=INT)}, "index must be int64, not int32"),
    ("crop_resize", {"window": zeros(2, 3, dtype=INT)}, "window must be [2, 4], not [2, 3]"),
    ("crop_resize", {"flip": zeros(2)}, "flip must be bool, not float32"),
    (
        "crop_resize",
        {"store": STORE._replace(pixels=zeros(216))},
        "store.pixels must be uint8, values 0 to 255 or uint16, values 0 to 65535, not",
    ),
    ("crop_resize", {"store": STORE._replace(start=zeros(2))}, "store.start must be int64, not"),
    (
        "crop_resize",
        {"store": STORE._replace(width=zeros(3, dtype=INT))},
        "store.width must be [2], not [3]",
    ),
    ("crop_resize", {"store": STORE._replace(channels=0)}, "channels must be at least 1, not 0"),
    (
        "crop_resize",
        {"taps": resize_taps(6, (2, 2), dtype=DEEP)},
        "taps.down.weights of torch.uint8 pixels must be int32, not float64",
    ),
]


@pytest.mark.parametrize(("op", "change", "words"), WRONG, ids=[f"{w[0]}-{w[2]}" for w in WRONG])
def test_what_does_not_fit_is_refused_alike(op, change, words):
    for function in ways(op):
        function(**arguments(op))
        with pytest.raises(ValueError) as error:
            function(**{**arguments(op), **change})
        assert words in str(error.value) and "\n" not in str(error.value)


OPS = (
    "mix_patchify", "masked_l2", "assemble_tokens", "add_norm", "latent_l2", "mlp", "mixing_ratio",
    "attention", "color_jitter", "jitter_patchify", "pair_l2", "draw_windows", "crop_resize",
)  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_tensors_of_two_devices_are_refused(op):
    """A kernel would follow a pointer to another GPU; here "meta" is the other device."""
    names = [name for name, x in arguments(op).items() if isinstance(x, torch.Tensor)]
    for moved in names:
        given = arguments(op)
        given[moved] = given[moved].to("meta")
        for function in ways(op)[: 1 if op == "mixing_ratio" else 2]:
            with pytest.raises(ValueError, match=r"\w+ is on \w+, but \w+ on \w+"):
                function(**given)


def test_every_public_op_is_covered():
    """A new op needs cases in this file."""
    public = {name for name in kernels.__all__ if inspect.isfunction(getattr(kernels, name))}
    assert public - {"set_default_impl", "resize_taps"} == {case[0] for case in WRONG}


def test_an_empty_batch_is_valid():
    for op in OPS[:6]:
        given = {
            name: x[:0] if isinstance(x, torch.Tensor) and len(x) == 2 else x
            for name, x in arguments(op).items()
        }
        for function in ways(op):
            function(**given)


@pytest.mark.parametrize("op", ["mix_patchify", "color_jitter", "jitter_patchify"])
def test_channels_first_are_named(op):
    given = arguments(op) | {"images": zeros(2, 3, 4, 6, dtype=BYTE)}
    with pytest.raises(
        ValueError, match=r"looks like \[B, C, H, W\].*images\.permute\(0, 2, 3, 1\)"
    ):
        getattr(kernels, op)(**given)


def test_integer_masks_are_refused():
    """~1 is -2, so an integer mask would mask nothing."""
    with pytest.raises(ValueError, match="masked must be bool, not int64"):
        Mask.from_bool(torch.tensor([[1, 0], [0, 1]]))
    with pytest.raises(ValueError, match=r"masked must be \[B, L\], not \[2\]"):
        Mask.from_bool(torch.tensor([True, False]))


@pytest.mark.parametrize("take", [visible_rows, masked_rows])
@pytest.mark.parametrize("shape", [(2, 5, 8), (3, 6, 8), (2, 48)], ids=str)
def test_rows_of_another_mask_are_refused(take, shape):
    mask = random_masking(torch.arange(2), (2, 3), 0.5)
    take(torch.zeros(2, 6, 8), mask)
    with pytest.raises(ValueError, match=r"a mask of \[2, 6\] cannot select rows of"):
        take(torch.zeros(shape), mask)


class Foreign:
    """What drop_in needs of a model."""

    def __init__(self, patch_size):
        self.norm_pix_loss = False
        self.patch_embed = type("Patches", (), {"patch_size": patch_size})


@pytest.mark.parametrize(
    ("imgs", "pred", "mask", "words"),
    [
        ((2, 3, 8, 12), (2, 6, 12), (2, 6), "pred must be [2, 24, 12], not [2, 6, 12]"),
        ((2, 3, 4, 6), (2, 7, 12), (2, 6), "pred must be [2, 6, 12], not [2, 7, 12]"),
        ((2, 3, 4, 6), (2, 6, 12), (2, 7), "mask must be [2, 6], not [2, 7]"),
        ((2, 4, 6, 3), (2, 6, 12), (2, 6), "pred must be [2, 3, 16], not [2, 6, 12]"),
    ],
)  # fmt: skip
def test_drop_in_refuses_images_of_another_size(imgs, pred, mask, words):
    model = Foreign(2)
    with pytest.raises(ValueError) as error:
        drop_in.forward_loss(model, torch.zeros(imgs), torch.zeros(pred), torch.zeros(mask))
    assert words in str(error.value)


def test_drop_in_refuses_what_is_not_square_or_not_float():
    shapes = torch.zeros(2, 3, 4, 6), torch.zeros(2, 6, 12), torch.zeros(2, 6)
    with pytest.raises(ValueError, match="patches must be square, not 2x3"):
        drop_in.forward_loss(Foreign((2, 3)), *shapes)
    with pytest.raises(ValueError, match="imgs must be a float tensor"):
        drop_in.forward_loss(Foreign(2), shapes[0].byte(), *shapes[1:])
    with pytest.raises(ValueError, match="2 does not divide images of 5x6"):
        drop_in.patchify(Foreign(2), torch.zeros(2, 3, 5, 6))
    with pytest.raises(ValueError, match=r"x must be \[B, L, D\], not \[2, 6\]"):
        drop_in.random_masking(Foreign(2), torch.zeros(2, 6), 0.5)


def test_checks_run_no_operation():
    """They read no values: on meta tensors, which have none, everything still runs."""
    for op in OPS[:6]:
        given = arguments(op)
        given |= {k: x.to("meta") for k, x in given.items() if isinstance(x, torch.Tensor)}
        getattr(kernels, op)(**given)
