"""Published constants, transcribed: each figure of a paper's table is in a test once.

Our own choices (nano, a decoder) are marked "ours". Recipes of i-MAE and of the papers on MAE are
in test_paper_recipes.py.
"""

import pytest

from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.engine.optim import BETAS as MOMENTA
from fastimae.evaluate.options import finetune_recipes, linear
from fastimae.evaluate.options.finetune import FinetuneOptions
from fastimae.evaluate.options.linear import LinearOptions
from fastimae.evaluate.tasks.linear import MOMENTUM
from fastimae.models.names import SIZES, parse_name

# He et al., Masked Autoencoders Are Scalable Vision Learners (2021), table 8; the epochs are those
# of its ablations. The batch is for 8 GPUs.
PRETRAINING = {
    "model": "mae_vit_base_patch16", "objective": "mae", "norm_pix_loss": True, "mask_ratio": 0.75,
    "batch_size": 4096 // 8, "epochs": 800, "warmup_epochs": 40, "blr": 1.5e-4,
    "weight_decay": 0.05, "crop": "random", "hflip": True,
}  # fmt: skip
# Its table 9; what changes with the model's size, as in the commands that its code documents.
FINETUNING_OF_ALL = {
    "weight_decay": 0.05, "warmup_epochs": 5, "aa": "rand-m9-mstd0.5-inc1", "smoothing": 0.1,
    "mixup": 0.8, "cutmix": 1.0,
}  # fmt: skip
FINETUNING = {
    "mae_vit_base": {"epochs": 100, "layer_decay": 0.65, "drop_path": 0.1, "blr": 5e-4},
    "mae_vit_large": {"epochs": 50, "layer_decay": 0.75, "drop_path": 0.2, "blr": 1e-3},
    "mae_vit_huge": {"epochs": 50, "layer_decay": 0.75, "drop_path": 0.3, "blr": 1e-3},
}
# Its table 10.
PROBING = {
    "opt": "lars", "blr": 0.1, "weight_decay": 0, "batch_size": 16384, "warmup_epochs": 10,
    "epochs": 90,
}  # fmt: skip
# Width, blocks, heads. Tiny and small: Touvron et al., Training data-efficient image transformers
# (2020), table 1. The next three: Dosovitskiy et al., An Image is Worth 16x16 Words (2020), table
# 1.
ENCODERS = {
    "nano": (128, 4, 4),  # ours
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
# MAE's is that of the last three (section 4.1). Tiny's is i-MAE's "lite version of ViT-Tiny".
DECODERS = {
    "nano": (128, 1, 4),  # ours
    "tiny": (192, 4, 3),
    "small": (256, 8, 8),  # ours
    "base": (512, 8, 16),
    "large": (512, 8, 16),
    "huge": (512, 8, 16),
}


def subset(settings, names):
    return {name: settings[name] for name in names}


def of_training(recipe):
    return flatten(parse_training("fastimae-train", ["--recipe", recipe]))


def of_evaluation(options, recipes, name):
    """Return the settings of a recipe, with defaults for the rest."""
    return {**vars(options(checkpoint="x")), **recipes[name]()}


def test_pretraining_of_mae():
    assert subset(of_training("mae_vit_base"), PRETRAINING) == PRETRAINING
    assert MOMENTA == (0.9, 0.95)


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_of_mae(name):
    got = of_evaluation(FinetuneOptions, finetune_recipes.RECIPES, name)
    expected = {**FINETUNING_OF_ALL, **FINETUNING[name]}
    assert subset(got, expected) == expected


def test_linear_probe_of_mae():
    got = of_evaluation(LinearOptions, linear.RECIPES, "mae")
    got["batch_size"] *= got["accum_iter"]  # one GPU adds up the effective batch
    assert subset(got, PROBING) == PROBING
    assert MOMENTUM == 0.9


@pytest.mark.parametrize("size", ENCODERS)
def test_sizes(size):
    sizes = parse_name(f"mae_vit_{size}_patch16")
    parts = ("embed_dim", "depth", "num_heads")
    assert tuple(sizes[part] for part in parts) == ENCODERS[size]
    assert tuple(sizes[f"decoder_{part}"] for part in parts) == DECODERS[size]


def test_every_size_stands_here():
    assert list(ENCODERS) == list(DECODERS) == list(SIZES)
