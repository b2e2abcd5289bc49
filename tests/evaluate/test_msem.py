"""M_sem: accuracy and cross-entropy after the i-MAE paper's fine-tuning."""

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from toy_images import MODEL, save_splits, save_trained
from undrawn import undrawn

pytest.importorskip("timm")
from timm.models import VisionTransformer
from torch import nn

from fastimae.cli import evaluate, train
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.evaluate.command import options_of
from fastimae.evaluate.options.finetune_recipes import OF_IMAE
from fastimae.evaluate.options.msem import MsemOptions, changes, in_words, recipe_for
from fastimae.evaluate.tasks.msem import described, m_sem, same_class_ratios
from fastimae.settings import ConfigError

BASE = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Images of three classes, and an i-MAE that was trained on them at a same-class ratio."""
    root = tmp_path_factory.mktemp("toy")
    data = save_splits(root / "data", 16)
    flags = ["--recipe", "imae_cifar10", "--same_class_ratio", "0.5", "--epochs", "1"]
    small = [
        "--warmup_epochs",
        "0",
        "--model",
        MODEL,
        "--batch_size",
        "16",
        "--accum_iter",
        "1",
        "--mix_group",
        "16",
    ]
    where = ["--data_path", str(data), "--output_dir", str(root / "imae")]
    with undrawn():
        assert train([*flags, *small, *where, *BASE]) == 0
    return root


def run(toy, name, *flags, task="msem"):
    argv = ["--checkpoint", toy / "imae" / "checkpoint-last.pth", "--data_path", toy / "data"]
    argv += [*flags, "--output_dir", toy / name]
    assert evaluate([task, *map(str, argv), *BASE]) == 0
    return toy / name


def numbers_of(folder):
    content = json.loads((folder / "results.json").read_text())
    return content["numbers"], content["settings"]


def equation_8(folder, data):
    """Return the mean of -sum_i t_i log p_i, and the accuracy, in float64, image by image."""
    content = load_checkpoint(folder / "checkpoint-last.pth")
    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=4, num_heads=4, num_classes=3,
        global_pool="avg", norm_layer=norm,
    )  # fmt: skip
    model.load_state_dict(content["model"])
    model.double().eval()
    mean, std = (np.array(content["args"][name]) for name in ("mean", "std"))
    entropies, hits = [], []
    for label, name in enumerate(sorted(path.name for path in (data / "val").iterdir())):
        for file in (data / "val" / name).iterdir():
            image = (np.asarray(Image.open(file)) / 255 - mean) / std
            with torch.no_grad():
                logits = model(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
            p, t = np.exp(logits) / np.exp(logits).sum(), np.eye(3)[label]
            entropies.append(-sum(t * np.log(p)))
            hits.append(logits.argmax() == label)
    return np.mean(entropies), 100 * np.mean(hits)


def test_cross_entropy_is_that_of_equation_8_on_clean_test_images(toy, capsys):
    folder = run(toy, "msem", "--epochs", 2, "--warmup_epochs", 0, "--lr", 1e-3, "--batch_size", 16)
    numbers, settings = numbers_of(folder)
    entropy, accuracy = equation_8(folder, toy / "data")
    assert numbers["cross_entropy"] == pytest.approx(entropy, rel=1e-5)
    assert numbers["acc1"] == pytest.approx(accuracy)
    assert "loss" not in numbers and "msem" not in numbers
    # The recipe follows from that of pre-training, and what differs from it is said.
    assert numbers["recipe"] == settings["recipe"] == "imae_cifar10"
    assert (settings["mixup"], settings["aa"], settings["hflip"]) == (1.0, "none", False)
    differs = numbers["differs_from_paper"].split("; ")
    assert set(differs) == {
        "epochs 2, not 100", "warmup_epochs 0, not 5", "lr 0.001, not None",
        "effective_batch 16, not 128",
    }  # fmt: skip
    err = capsys.readouterr().err
    assert f"cross-entropy {entropy:.4f}, pre-trained at r = 0.5 (realised 0.5)" in err
    assert "differs from the paper: " in err and "epochs 2, not 100" in err
    assert (numbers["same_class_ratio"], numbers["realised_same_class_ratio"]) == (0.5, 0.5)


def test_it_is_the_fine_tuning_of_that_recipe(toy):
    """finetune --recipe trains the same classifier, and calls the cross-entropy its loss."""
    flags = ["--epochs", 1, "--batch_size", 16, "--warmup_epochs", 0]
    ours, _ = numbers_of(run(toy, "one", *flags))
    recipe = ["--recipe", "imae_cifar10"]
    other, _ = numbers_of(run(toy, "other", *recipe, *flags, task="finetune"))
    assert ours["acc1"] == other["acc1"] and ours["cross_entropy"] == other["loss"]


def test_random_weights_have_no_same_class_ratio(toy):
    numbers, _ = numbers_of(run(toy, "random", "--random_init", "--epochs", 1, "--batch_size", 16))
    assert numbers["same_class_ratio"] is numbers["realised_same_class_ratio"] is None
    assert numbers["pseudo_labels"] is None


def test_a_ratio_of_clusters_is_said_to_be_one(tmp_path):
    """Section 3.3 names clusters as an alternative; table 1 is of classes."""
    known = {"same_class_ratio": 1.0, "pseudo_labels": "clusters.npz"}
    imae = save_trained(tmp_path / "imae.pth", recipe="imae_cifar10", **known)
    ratios = same_class_ratios(options_of("msem", ["--checkpoint", str(imae), "--data_path", "x"]))
    assert ratios == {**known, "realised_same_class_ratio": None}
    tuned = {"acc1": 1.0, "acc5": 2.0, "loss": 3.0}
    said = described(m_sem(tuned, ratios, "imae_cifar10", ""))
    assert "at r = 1 of the clusters in clusters.npz, not of classes; recipe" in said
    assert "cluster" not in described(m_sem(tuned, {**ratios, "pseudo_labels": None}, "x", ""))


@pytest.mark.parametrize(
    ("trained", "recipe"),
    [
        ("imae_cifar10", "imae_cifar10"),
        ("imae_cifar10_subordinate", "imae_cifar10"),
        ("imae_cifar100", "imae_cifar100"),
        ("imae_tiny_imagenet_semantics", "imae_tiny_imagenet"),
        ("imae_vit_base_pictures", "imae_vit_base"),
        ("mae_vit_base", None),
        (None, None),
    ],
)
def test_the_fine_tuning_that_fits_a_pre_training(tmp_path, trained, recipe):
    mae = save_trained(tmp_path / "mae.pth", **({"recipe": trained} if trained else {}))
    assert recipe_for(mae) == recipe
    argv = ["--finetune", str(mae), "--data_path", "x"]
    if recipe is None:
        with pytest.raises(
            ConfigError, match=f"{mae} names no recipe .*--recipe imae_cifar10, imae_c"
        ):
            options_of("msem", argv)
        return
    assert options_of("msem", argv).recipe == recipe
    other = options_of("msem", [*argv, "--recipe", "imae_vit_base", "--epochs", "3"])
    assert (other.recipe, other.epochs, other.mixup) == ("imae_vit_base", 3, 0.8)


def test_another_recipe_and_a_missing_checkpoint_are_named(tmp_path, capsys):
    assert evaluate(["msem", "--checkpoint", "x.pth", "--recipe", "mae_vit_base"]) == 2
    assert "mae_vit_base is not one of those in --help: did you mean imae_vit" in (
        capsys.readouterr().err
    )
    assert evaluate(["msem", "--checkpoint", str(tmp_path / "gone.pth")]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def asked(name, **changed):
    return MsemOptions(checkpoint="x", recipe=name, **{**OF_IMAE[name](), **changed})


@pytest.mark.parametrize("name", OF_IMAE)
def test_a_recipe_does_not_differ_from_itself(name):
    batch = {"imae_tiny_imagenet": 256, "imae_vit_base": 1024}.get(name, 128)
    assert changes(asked(name), batch) == {}
    # The same step from other parts, elsewhere, and on other images.
    same = asked(
        name, batch_size=32, accum_iter=4, device="cpu", seed=3, ffcv="a", precision="fp32"
    )
    assert changes(same, batch) == {}


def test_what_differs_from_a_recipe_is_said():
    options = asked("imae_cifar10", epochs=3, cutmix=1.0, hflip=True, label_fraction=0.1)
    found = changes(options, 512)
    assert found == {
        "epochs": (3, 100), "cutmix": (1.0, 0.0), "hflip": (True, False),
        "label_fraction": (0.1, None), "effective_batch": (512, 128),
    }  # fmt: skip
    assert "epochs 3, not 100" in in_words(found).split("; ") and in_words({}) == ""
    oblong = asked("imae_tiny_imagenet", crop_ratio=(0.5, 2.0))
    assert set(changes(oblong, 256)) == {"crop_ratio"}
