"""Images of the wrong size or layout: every entry point refuses them, naming both sizes."""

import pytest
import torch

from fastimae.kernels import Mask, random_masking
from fastimae.models import create_model

SIZES = {
    "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 3, "img_size": (8, 12),
}  # fmt: skip
PATCHES, VALUES = 6, 48


def model(**overrides):
    return create_model("mae_vit_tiny_patch4", **{**SIZES, **overrides})


def drawn(batch=2, grid=(2, 3)):
    return random_masking(torch.arange(batch), grid, 0.5)


def call(model, images, size=2):
    """Return every method that takes images, as (name, function)."""
    mask = drawn(size)
    own, pred = torch.arange(size), torch.zeros(size, 3, VALUES)
    return [
        ("visible_patches", lambda: model.visible_patches(images, mask)),
        (
            "reconstruction_loss",
            lambda: model.reconstruction_loss(pred, images, own, mask.ids_masked),
        ),
        ("forward", lambda: model(images, mask=mask)),
    ]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 16, 24, 3), "must be [B, 8, 12, 3] for this model, not [2, 16, 24, 3]"),
        ((2, 8, 8, 3), "must be [B, 8, 12, 3] for this model, not [2, 8, 8, 3]"),
        ((2, 12, 8, 3), "not [2, 12, 8, 3]"),
        ((2, 8, 12, 4), "not [2, 8, 12, 4]"),
        ((2, 3, 8, 12), "looks like [B, C, H, W]; pass imgs.permute(0, 2, 3, 1)"),
        ((8, 12, 3), "not [8, 12, 3]"),
    ],
    ids=str,
)
def test_images_that_do_not_fit_are_refused(shape, words):
    images = torch.zeros(shape, dtype=torch.uint8)
    for name, function in call(model(), images):
        with pytest.raises(ValueError) as error:
            function()
        expected = words if name == "forward" else words.replace("imgs.", "images.")
        assert expected in str(error.value), name


def test_floats_are_channels_first():
    images = torch.randn(2, 8, 12, 3)
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]; pass imgs\.permute\(0, 3, 1, 2\)"):
        model()(images)
    assert model()(images.permute(0, 3, 1, 2))[0] > 0
    with pytest.raises(ValueError, match=r"\[B, 3, 8, 12\] for this model, not \[2, 3, 16, 24\]"):
        model()(torch.randn(2, 3, 16, 24))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("space", ["decoder", "encoder"])
def test_tensors_between_the_parts_are_checked(heads, space):
    net, mask = model(heads=heads, head_space=space), drawn()
    patches = torch.zeros(2, 3, VALUES)
    latent = net.encode(patches, mask.ids_keep)
    head = net.split(latent)[0]
    assert net.decode(head, mask).shape == (2, PATCHES, VALUES)
    for wrong in (
        lambda: net.encode(patches[:1], mask.ids_keep),
        lambda: net.encode(patches[:, :2], mask.ids_keep),
        lambda: net.encode(patches[..., 1:], mask.ids_keep),
        lambda: net.encode(patches, mask.ids_keep.float()),
        lambda: net.split(latent[..., 1:]),
        lambda: net.decode(head[:1], mask),
        lambda: net.decode(head[:, :-1], mask),
        lambda: net.decode(torch.cat([head, head[:, 1:2]], 1), mask),
        lambda: net.decode(head[..., 1:], mask),
        lambda: net.decode(head, drawn(2, (2, 2))),
        lambda: net.patchify(torch.zeros(2, 4, 8, 12)),
        lambda: net.patchify(torch.zeros(2, 3, 9, 12)),
        lambda: net.unpatchify(torch.zeros(2, 5, VALUES)),
        lambda: net.unpatchify(torch.zeros(2, PATCHES, 40)),
        lambda: net.split(latent[0]),
    ):
        with pytest.raises(ValueError, match=r"must be |does not divide"):
            wrong()


def test_masks_whose_parts_disagree_are_refused():
    net, mask = model(), drawn()
    other = random_masking(torch.arange(2), (2, 3), 0.75)
    mixed = Mask(mask.ids_keep, mask.ids_restore, mask.mask, other.ids_masked)
    with pytest.raises(ValueError, match=r"mask\.ids_masked must be \[2, 3\], not \[2, 5\]"):
        net.decode(torch.zeros(2, 4, 12), mixed)


def test_an_empty_batch_is_valid():
    net = model()
    loss, pred, mask = net(torch.zeros(0, 8, 12, 3, dtype=torch.uint8))
    assert loss.isnan() and pred.shape == (0, PATCHES, VALUES) and mask.shape == (0, PATCHES)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_checks_stay_out_of_the_graph(dynamic):
    """The model compiles as one graph, which reads no values."""
    net, images = model(), torch.randint(0, 256, (2, 8, 12, 3), dtype=torch.uint8)
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    torch.testing.assert_close(compiled(images, mask=drawn())[0], net(images, mask=drawn())[0])
