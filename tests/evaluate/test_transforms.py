"""timm's policies with the installed version of Pillow."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

pytest.importorskip("timm")
from fastimae.evaluate.finetuning.transforms import build_mixup, training_transform
from fastimae.evaluate.options.finetune import FinetuneOptions

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def options(**changes):
    return FinetuneOptions(checkpoint="x", **changes)


def noise(size=40):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def test_without_a_policy_it_crops_and_normalises():
    plain = options(aa="none", reprob=0, min_crop=1.0)
    flat = Image.new("RGB", (40, 40), (10, 20, 30))
    view = training_transform(plain, (24, 32), MEAN, STD)(flat)
    expected = (torch.tensor([10, 20, 30]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(view, expected[:, None, None].expand(3, 24, 32))


def test_erasing_takes_a_part():
    flat = Image.new("RGB", (32, 32), (10, 20, 30))
    always = training_transform(options(aa="none", reprob=1, remode="const"), (32, 32), MEAN, STD)
    view = always(flat)
    assert 0.01 < (view == 0).all(0).float().mean() < 0.5


@pytest.mark.parametrize("policy", ["rand-m10-n1-inc1", "rand-m10-n1", "augmix-m10", "original"])
def test_no_operation_of_a_policy_fails(policy):
    transform = training_transform(options(aa=policy), (32, 32), MEAN, STD)
    image = noise()
    random.seed(0), np.random.seed(0)  # noqa: NPY002
    for _ in range(300):
        assert torch.isfinite(transform(image)).all()


def test_posterize_keeps_the_first_bits():
    transform = training_transform(options(aa="rand-m10-n1-inc1"), (32, 32), MEAN, STD)
    (policy,) = (step for step in transform.transforms if hasattr(step, "ops"))
    (posterize,) = (op for op in policy.ops if op.name.startswith("Posterize"))
    image = noise()
    for bits in (0, 3, 8):
        kept = np.asarray(posterize.aug_fn(image, bits))
        np.testing.assert_array_equal(kept, np.asarray(image) & (256 - 2 ** (8 - bits)))
    assert np.array_equal(kept, np.asarray(ImageOps.posterize(image, 8)))


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match="--aa nonsense"):
        training_transform(options(aa="nonsense"), (32, 32), MEAN, STD)


def test_mixing_is_on_where_an_alpha_is():
    assert build_mixup(options(), 3) is None
    both = build_mixup(options(mixup=0.8, cutmix=0.5, mixup_switch_prob=0.3), 3)
    assert (both.mixup_alpha, both.cutmix_alpha, both.switch_prob) == (0.8, 0.5, 0.3)
    assert build_mixup(options(cutmix_minmax=(0.2, 0.8)), 3).cutmix_minmax == (0.2, 0.8)
