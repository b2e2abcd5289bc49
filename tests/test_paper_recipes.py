"""Recipes against the papers: tables 5 to 8 of i-MAE as printed, and the text of the others.

Zhang & Shen, i-MAE (2022), appendix B; Kong et al., hierarchical latent variable models (2023);
Kong & Zhang, occlusion-invariant features (2022). MAE's own tables are in test_published.py.
"""

import pytest

from fastimae import recipes
from fastimae.arguments import parse_training
from fastimae.config import flatten
from fastimae.engine.optim import BETAS
from fastimae.evaluate.options import finetune_recipes, linear
from fastimae.evaluate.options.finetune import TuningOptions
from fastimae.evaluate.options.linear import LinearOptions
from fastimae.models.names import parse_name

PRETRAINING = """
Config                 | CIFAR-10/100 | Tiny-ImageNet     | ImageNet-1K
base learning rate     | 1.5e-4       | 1.5e-4            | 1e-3
batch size             | 4,096        | 4,096             | 4,096
Mask Ratio             | 0.75         | 0.75              | 0.5
optimizer              | AdamW        | AdamW             | AdamW
optimizer momentum     | 0.9, 0.95    | 0.9, 0.95         | 0.9, 0.95
augmentation           | None         | RandomResizedCrop | RandomResizedCrop
"""  # table 5; "for better visualizations, we use a 0.5 mask ratio on ImageNet"
SEMANTICS = """
Config                 | CIFAR-10/100        | Tiny-ImageNet
Object mix range       | 0.0, 0.25, 0.5, 1.0 | 0.0, 0.25, 0.5, 1.0
Image mix ratio        | Beta(1.0, 1.0)      | Beta(1.0, 1.0)
base learning rate     | 1.5e-4              | 3.5e-4
batch size             | 4,096               | 4,096
Mask Ratio             | 0.75                | 0.75
optimizer              | AdamW               | AdamW
optimizer momentum     | 0.9, 0.95           | 0.9, 0.95
augmentation           | None                | RandomResizedCrop
"""  # table 6
FINETUNING = """
Config                 | CIFAR-10/100   | Tiny-ImageNet            | ImageNet-1K
Image mix ratio        | Beta(1.0, 1.0) | Beta(1.0, 1.0)           | 0.8
base learning rate     | 1e-3           | 1e-3                     | 1e-3
batch size             | 128            | 256                      | 1,024
epochs                 | 100            | 100                      | 25
optimizer              | AdamW          | AdamW                    | AdamW
optimizer momentum     | 0.9, 0.999     | 0.9, 0.999               | 0.9, 0.999
augmentation           | Mixup          | Mixup, RandomResizedCrop | Mixup, RandomResizedCrop
"""  # table 7, without its row of pre-training, "object mix range"
PROBING = """
Config                 | CIFAR-10/100 | Tiny-ImageNet     | ImageNet-1K
base learning rate     | 1e-2         | 1e-2              | 1e-2
batch size             | 128          | 256               | 1,024
epochs                 | 200          | 200               | 25
optimizer              | SGD          | SGD               | SGD
optimizer momentum     | 0.9, 0.999   | 0.9, 0.999        | 0.9, 0.999
augmentation           | None         | RandomResizedCrop | RandomResizedCrop
"""  # table 8, without its rows of pre-training, "object mix range" and "image mix ratio"
CIFAR, TINY, IMAGENET = "CIFAR-10/100", "Tiny-ImageNet", "ImageNet-1K"
COLUMN = {"imae_cifar10": CIFAR, "imae_cifar100": CIFAR, "imae_tiny_imagenet": TINY,
          "imae_vit_base": IMAGENET}  # fmt: skip

# Section 4.1 and appendix B: epochs, warm-up, normalised pixels; width, blocks, heads of encoder
# and decoder.
VIT_TINY, LITE_TINY, VIT_SMALL = (192, 12, 3), (192, 4, 3), (384, 12, 6)
OF_CIFAR = (2000, 200, False, VIT_TINY, LITE_TINY)
OF_TINY = (1000, 100, False, VIT_SMALL, VIT_TINY)
# "On ImageNet-1K, we strictly use MAE's specifications" (MAE, table 8, and its text).
OF_IMAGENET = (800, 40, True, (768, 12, 12), (512, 8, 16))
TEXT = {
    "imae_cifar10": OF_CIFAR,
    "imae_cifar100": OF_CIFAR,
    "imae_cifar10_subordinate": OF_CIFAR,
    "imae_tiny_imagenet": OF_TINY,
    "imae_tiny_imagenet_semantics": OF_TINY,
    "imae_vit_base": OF_IMAGENET,
    "imae_vit_base_pictures": (*OF_IMAGENET[:2], False, *OF_IMAGENET[3:]),
}
# Mean and standard deviation are the data's, rounded to 4 digits: ours.
COLOURS = {
    "imae_cifar10": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "imae_cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}


def column(table, name):
    """Return a column of a printed table, by row."""
    head, *rows = ([cell.strip() for cell in line.split("|")] for line in table.split("\n")[1:-1])
    return {row[0]: row[head.index(name)] for row in rows}


def number(cell):
    return float(cell.replace(",", ""))


def training(name, *flags):
    return flatten(parse_training("fastimae-train", ["--recipe", name, *flags]))


def evaluation(options, recipe):
    return {**vars(options(checkpoint="x")), **recipe()}


def batch_of(settings, gpus):
    return settings["batch_size"] * settings["accum_iter"] * gpus


def check_pretraining(got, printed, gpus):
    assert got["objective"] == "imae"
    assert got["blr"] == number(printed["base learning rate"])
    assert batch_of(got, gpus) == number(printed["batch size"])
    assert got["mask_ratio"] == number(printed["Mask Ratio"])
    assert got["opt"] == printed["optimizer"].lower()
    assert tuple(map(float, printed["optimizer momentum"].split(", "))) == BETAS
    crop = {"None": ("none", False), "RandomResizedCrop": ("random", True)}  # flips: as MAE's code
    assert (got["crop"], got["hflip"]) == crop[printed["augmentation"]]


@pytest.mark.parametrize("name", ["imae_cifar10", "imae_cifar100", "imae_tiny_imagenet"])
def test_table_5(name):
    check_pretraining(training(name), column(PRETRAINING, COLUMN[name]), gpus=1)


def test_table_5_of_imagenet_is_the_run_for_pictures_and_the_text_has_the_one_for_accuracy():
    printed = column(PRETRAINING, IMAGENET)
    check_pretraining(training("imae_vit_base_pictures"), printed, gpus=8)
    # MAE's specifications; appendix B: "normalized pixels and a high masking ratio (0.75)".
    of_text = {**printed, "base learning rate": "1.5e-4", "Mask Ratio": "0.75"}
    check_pretraining(training("imae_vit_base"), of_text, gpus=8)


@pytest.mark.parametrize(
    ("name", "data"),
    [("imae_cifar10", CIFAR), ("imae_cifar100", CIFAR), ("imae_tiny_imagenet_semantics", TINY)],
)
def test_table_6(name, data):
    printed = column(SEMANTICS, data)
    for ratio in map(float, printed["Object mix range"].split(", ")):
        got = training(name, "--same_class_ratio", str(ratio))
        check_pretraining(got, printed, gpus=1)
        assert got["same_class_ratio"] == ratio and got["mix_lambda"] is None
        assert printed["Image mix ratio"] == f"Beta({got['mix_beta']}, {got['mix_beta']})"


@pytest.mark.parametrize("name", TEXT)
def test_the_text_of_pretraining(name):
    got = training(name)
    sizes = parse_name(got["model"]) | {k: v for k, v in got.items() if v is not None}
    parts = ("embed_dim", "depth", "num_heads")
    encoder = tuple(sizes[part] for part in parts)
    decoder = tuple(sizes[f"decoder_{part}"] for part in parts)
    plain = (got["epochs"], got["warmup_epochs"], got["norm_pix_loss"])
    assert (*plain, encoder, decoder) == TEXT[name]
    assert (
        got["head_space"] == "encoder"
    )  # equation 5: the teacher is "the pre-trained MAE encoder"
    assert got["weight_decay"] == 0.05  # MAE's: ours
    mean, std = COLOURS[name.removesuffix("_subordinate")] if "cifar" in name else (None, None)
    assert (got["mean"], got["std"]) == (mean, std)


def test_defaults_of_the_ablations():
    """Section 4.2.1: "ViT-Tiny, masking ratio of 75%, fixed mixing ratio of 35%, and reconstructing
    only the subordinate image"."""
    got, usual = training("imae_cifar10_subordinate"), training("imae_cifar10")
    changed = {"mix_lambda": 0.35, "targets": "subordinate", "recipe": "imae_cifar10_subordinate"}
    assert got == {**usual, **changed} and usual["targets"] == "both"


@pytest.mark.parametrize("name", [name for name in TEXT if name != "imae_cifar10_subordinate"])
def test_the_baseline_is_a_flag_away(name):
    """The MAE of table 1, which is the teacher: the same settings without mixtures."""
    got, usual = training(name, "--objective", "mae"), training(name)
    differ = {key for key in got if got[key] != usual[key]}
    assert differ == {"objective", "head_space"} | {"same_class_ratio"} & differ


@pytest.mark.parametrize("name", finetune_recipes.OF_IMAE)
def test_table_7(name):
    printed = column(FINETUNING, COLUMN[name])
    got = evaluation(TuningOptions, finetune_recipes.OF_IMAE[name])
    assert got["blr"] == number(printed["base learning rate"])  # the text has 1.5e-3 for CIFAR
    assert batch_of(got, gpus=1) == number(printed["batch size"])
    assert got["epochs"] == number(printed["epochs"])
    alpha = {"Beta(1.0, 1.0)": 1.0, "0.8": 0.8}
    assert got["mixup"] == alpha[printed["Image mix ratio"]]
    crops = "RandomResizedCrop" in printed["augmentation"]
    assert got["crop"] == ("random" if crops else "none")
    # Section 4.3.2: "in the finetuning phase, we only use Mixup as augmentation".
    assert (got["aa"], got["reprob"], got["cutmix"], got["color_jitter"]) == ("none", 0, 0, None)
    assert got["hflip"] is False and got["smoothing"] == 0
    # MAE's table 9, for what is left open: ours.
    left_open = ("weight_decay", "warmup_epochs", "layer_decay", "drop_path")
    assert [got[part] for part in left_open] == [0.05, 5, 0.75, 0.1]


def test_the_optimizer_of_table_7():
    pytest.importorskip("timm")
    import torch
    from timm.models import VisionTransformer

    from fastimae.engine.optim import adamw
    from fastimae.evaluate.finetuning.training import make_optimizer

    student = VisionTransformer(img_size=32, embed_dim=8, depth=1, num_heads=1, num_classes=2)
    made = make_optimizer(student, TuningOptions(checkpoint="x"), 1e-3, adamw(one_pass=False))
    assert isinstance(made, torch.optim.AdamW)
    printed = {column(FINETUNING, data)["optimizer momentum"] for data in (CIFAR, TINY, IMAGENET)}
    assert printed == {", ".join(map(str, made.defaults["betas"]))}


@pytest.mark.parametrize("name", sorted(linear.RECIPES.keys() - {"mae", "attentive"}))
def test_table_8(name):
    printed = column(PROBING, COLUMN[name])
    got = evaluation(LinearOptions, linear.RECIPES[name])
    assert got["blr"] == number(printed["base learning rate"])
    assert batch_of(got, gpus=1) == number(printed["batch size"])
    assert got["epochs"] == number(printed["epochs"])
    assert got["opt"] == printed["optimizer"].lower()
    crop = {"None": "center", "RandomResizedCrop": "random"}
    assert got["crop"] == crop[printed["augmentation"]]
    assert got["weight_decay"] == 0  # section 4.1
    assert got["warmup_epochs"] == 10  # MAE's table 10: ours


def test_the_optimizer_and_the_norm_of_table_8():
    torch = pytest.importorskip("torch")
    from fastimae.evaluate.labels.feature_cache import Features
    from fastimae.evaluate.labels.probe import ProbeData
    from fastimae.evaluate.tasks.linear import build_optimizer, build_probe

    features = Features(rows=torch.randn(4, 3), labels=torch.tensor([0, 1, 0, 1]))
    probe = build_probe(ProbeData(train=features, val=features, classes=2), seed=0)
    assert isinstance(probe[0], torch.nn.BatchNorm1d) and not list(probe[0].parameters())
    made = build_optimizer(probe, LinearOptions(checkpoint="x"), 1e-2)
    assert isinstance(made, torch.optim.SGD)
    # SGD has one momentum: the first of the two that table 8 prints.
    momenta = column(PROBING, CIFAR)["optimizer momentum"].split(", ")
    assert made.defaults["momentum"] == float(momenta[0])


def test_rmae_differs_from_mae_where_the_paper_says_so():
    """Section 5: "for R-MAE, we search the learning rate and finally set the base learning rate as
    3.0e-4. Other training settings are the same"; section 2: "lambda is set to 1 for ours"."""
    got, mae = training("rmae_vit_base"), training("mae_vit_base_occlusion")
    differ = {key for key in got if got[key] != mae[key]}
    assert differ == {"objective", "blr", "recipe"}
    assert (got["objective"], got["blr"], mae["blr"]) == ("rmae", 3.0e-4, 1.5e-4)
    assert (got["second_view"], got["constraint_weight"]) == ("complement", 1)
    # Table 1: "R-MAE (dagger) means T2 is randomly sampled with mask ratio of 25%".
    dagger = training("rmae_vit_base", "--second_view", "independent")
    assert dagger["second_mask_ratio"] == 0.25


@pytest.mark.parametrize("name", ["hierarchical_vit_base", "mae_vit_base_occlusion"])
def test_maes_of_other_papers_differ_from_mae_where_they_say_so(name):
    got, mae = training(name), training("mae_vit_base")
    own = {
        # Section 3 and appendix C.2: units of 16 pixels, "ViT patch size remains fixed at 8", 800
        # epochs; all else as in MAE.
        "hierarchical_vit_base": {"model": "mae_vit_base_patch8", "mask_patch_size": 16},
        # Section 5: the "batch size is set to 1024", "20epoch linear warm-up", 100 epochs.
        "mae_vit_base_occlusion": {"epochs": 100, "warmup_epochs": 20},
    }
    assert batch_of(got, gpus=8) == {"hierarchical_vit_base": 4096}.get(name, 1024)
    step = {key: got[key] for key in ("batch_size", "accum_iter", "recipe")}
    assert got == {**mae, **own[name], **step}


def test_cmae_of_the_occlusion_paper():
    """Section 5: "the momentum to update the teacher model is set to 0.996, and the temperature
    [...] 0.2", "2048-d for hidden layers, and 768-d for output layers", "base learning rate as
    1.5e-4"; section 3: patch tokens, mask tokens, equation 6, SimSiam's jitter (0.4) after the
    mask. The rest is its MAE's."""
    got, mae = training("cmae_vit_base"), training("mae_vit_base_occlusion")
    own = {
        "objective": "cmae", "ema_momentum": 0.996, "temperature": 0.2, "proj_hidden_dim": 2048,
        "proj_dim": 768, "blr": 1.5e-4, "color_jitter": 0.4, "color_jitter_on": "visible",
        "contrast": "infonce", "tokens": "patch", "encoder_mask_tokens": True,
        "second_view": "complement", "norm_pix_loss": False, "recipe": "cmae_vit_base",
    }  # fmt: skip
    assert batch_of(got, gpus=8) == 1024
    assert got == {**mae, **own}


def test_crossmae_differs_from_mae_in_its_decoder():
    """From notes on CrossMAE (Fu et al., 2025), without a table to cite: 12 decoder blocks of
    cross-attention, inter-block attention, a quarter of the patches predicted at a mask ratio of
    0.75; 800 epochs, the rest as in MAE."""
    got, mae = training("crossmae_vit_base"), training("mae_vit_base")
    own = {
        "decoder_attention": "cross", "decoder_depth": 12, "weighted_feature_maps": True,
        "predict_ratio": 0.25, "recipe": "crossmae_vit_base",
    }  # fmt: skip
    assert got == {**mae, **own}
    assert (batch_of(got, gpus=8), got["mask_ratio"], got["epochs"]) == (4096, 0.75, 800)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("unit", [8, 16, 32])
def test_the_grid_of_the_hierarchical_paper(ratio, unit):
    flags = ("--mask_ratio", str(ratio), "--mask_patch_size", str(unit))
    got = training("hierarchical_vit_base", *flags)
    assert (got["mask_ratio"], got["mask_patch_size"]) == (ratio, unit)


def test_finetuning_of_the_occlusion_paper():
    """Section 5: batch 1024, base learning rate 1.0e-3, warm-up 5, 100 epochs, all as in MAE."""
    got = evaluation(TuningOptions, finetune_recipes.RECIPES["mae_vit_base_occlusion"])
    mae = evaluation(TuningOptions, finetune_recipes.RECIPES["mae_vit_base"])
    assert batch_of(got, gpus=8) == 1024
    own = {"batch_size": 128, "blr": 1e-3, "layer_decay": 0.75}  # the last: MAE's table 9
    assert got == {**mae, **own}
    assert (got["warmup_epochs"], got["epochs"], got["global_pool"]) == (5, 100, True)


def test_the_released_run_keeps_its_own_name():
    """The command that i-MAE's released code documents, which is not in the paper."""
    got = training("imae_vit_base_released")
    known = {"model": "mae_vit_base_patch16", "batch_size": 256, "epochs": 50, "warmup_epochs": 5,
             "blr": 1e-4, "mask_ratio": 0.75, "norm_pix_loss": False}  # fmt: skip
    assert {key: got[key] for key in known} == known


@pytest.mark.parametrize(("size", "drop_path"), [("base", 0), ("large", 0), ("huge", 0.4)])
def test_pixio(size, drop_path):
    """Pixio (Yang et al., 2025). By lightly's documentation: 256 pixels, masks of 4 x 4 patches of
    16, mask ratio 0.75, 8 class tokens, 32 decoder blocks, normalised pixels. From notes on the
    paper, without a table to cite: width 512, batch 8,192, 400 epochs of 1,605 steps, blr, drop
    path."""
    got = training(f"pixio_vit_{size}")
    known = {"model": f"mae_vit_{size}_patch16", "mask_patch_size": 4 * 16, "class_tokens": 8,
             "decoder_embed_dim": 512, "decoder_depth": 32, "drop_path": drop_path,
             "blr": 2.5e-5, "mask_ratio": 0.75, "epochs": 400, "norm_pix_loss": True}  # fmt: skip
    assert {key: got[key] for key in known} == known
    assert tuple(got["input_size"]) == (256,) and batch_of(got, gpus=8) == 8192
    assert got["epoch_samples"] // 8192 == 1605


def test_every_recipe_stands_in_a_test():
    occlusion = {"mae_vit_base_occlusion", "rmae_vit_base", "cmae_vit_base"}
    others = {"hierarchical_vit_base", "imae_vit_base_released"} | occlusion
    others |= {f"pixio_vit_{size}" for size in ("base", "large", "huge")} | {"crossmae_vit_base"}
    assert set(recipes.RECIPES) == {"mae_vit_base", *TEXT, *others, "demo"}
    maes = {f"mae_vit_{size}" for size in ("base", "large", "huge")} | {"mae_vit_base_occlusion"}
    assert set(finetune_recipes.RECIPES) == {*maes, *COLUMN}
    assert set(linear.RECIPES) == {"mae", "attentive", *COLUMN}
