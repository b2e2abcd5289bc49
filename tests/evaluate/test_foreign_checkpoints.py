"""Checkpoints of every layout give the same maps of features, at another size."""

import pytest
import torch
from foreign_checkpoints import (
    CLASS_TOKENS,
    FLAGS,
    FOREIGN,
    WITHOUT_NORM,
    foreign_model,
    write_foreign,
)

from fastimae.evaluate.dense.backbone import DenseEncoder
from fastimae.interop import load_model

HEADS = int(FLAGS[1])
SIZE, GRID = (48, 64), (6, 8)
CLOSE = {"rtol": 0, "atol": 1e-5}


def maps_of(model, **options):
    imgs = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    dense = DenseEncoder(model, SIZE, layers=(0, -1), **options).requires_grad_(False).eval()
    return dense(imgs)


@pytest.mark.parametrize("layout", FOREIGN)
def test_all_layouts_of_the_same_weights_give_the_same_maps(layout, tmp_path):
    pytest.importorskip("timm")
    model = load_model(write_foreign(layout, tmp_path), encoder_only=True, num_heads=HEADS)
    assert model.class_tokens == CLASS_TOKENS.get(layout, 1)
    for options in ({"norm": False}, {"window": 3, "norm": False}, {}):
        found, expected = (maps_of(each, **options) for each in (model, foreign_model(layout)))
        if layout in WITHOUT_NORM and not options:
            expected = maps_of(foreign_model(layout), norm=False)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == (2, 32, *GRID) and one.std() > 0.1
            torch.testing.assert_close(one, other, **CLOSE)


def test_with_windows_the_number_of_class_tokens_does_not_matter():
    """They take no part, so that models of all layouts agree, as all are made of one encoder."""
    models = map(foreign_model, ("ours", "imae", "pixio"))
    one, *others = (maps_of(model, window=2)[-1] for model in models)
    assert all(torch.equal(one, other) for other in others)
