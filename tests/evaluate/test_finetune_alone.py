"""finetune --eval --resume FILE --val IMAGES: no checkpoint, no training images, any classifier."""

import json

import pytest
import torch
from toy_images import save_mae, save_splits

from fastimae.cli import evaluate
from fastimae.evaluate.center_batches import CenterBatches
from fastimae.evaluate.images import open_images
from fastimae.models.encoder import IMAGENET_MEAN, IMAGENET_STD

timm = pytest.importorskip("timm")

QUICK = ["--num_workers", "0", "--device", "cpu", "--precision", "fp32", "--batch_size", "12"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    save_splits(root, 8)
    return root


def run(*flags):
    return evaluate(["finetune", *map(str, flags), *QUICK])


def numbers_of(folder):
    return json.loads((folder / "results.json").read_text())["numbers"]


def vit(pool, size=32, **options):
    torch.manual_seed(2)
    net = timm.models.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=128, depth=2, num_heads=4, num_classes=3,
        global_pool=pool, **options,
    )  # fmt: skip
    for value in net.parameters():
        value.data += 0.2 * torch.randn_like(value)
    return net.eval()


def accuracy_of(net, folder, size=32):
    """timm's own, on the same view of the images."""
    right, count = 0, 0
    mean, std = (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for pixels, labels in CenterBatches(
        open_images(folder), (size, size), batch_size=12, workers=0, channels=3
    ):
        with torch.no_grad():
            logits = net(((pixels / 255 - mean) / std).permute(0, 3, 1, 2))
        right, count = right + int((logits.argmax(1) == labels).sum()), count + len(labels)
    return 100 * right / count


@pytest.mark.parametrize("flags", [[], ["--cls_token"], ["--input_size", 40, 48]])
def test_ours_needs_nothing_but_its_file_and_images(data, tmp_path, flags):
    save_mae(tmp_path / "mae.pth", depth=1, mean=(0.2, 0.3, 0.4), std=(0.5, 0.4, 0.3), num_heads=8)
    (start,) = tmp_path.glob("mae.pth")
    flags = [*flags, "--aa", "none", "--reprob", 0, "--lr", 1e-3, "--warmup_epochs", 0]
    trained = tmp_path / "run"
    assert run("--checkpoint", start, "--data_path", data, "--output_dir", trained,
               "--epochs", 2, *flags) == 0  # fmt: skip
    numbers = numbers_of(trained)
    start.unlink()
    for name, acc1 in (("best", numbers["best_acc1"]), ("1", numbers["acc1"])):
        file = trained / f"checkpoint-{name}.pth"
        assert run("--eval", "--resume", file, "--val", data / "val") == 0
        results = json.loads((trained / "eval" / "results.json").read_text())
        assert results["numbers"]["acc1"] == acc1 and results["checkpoint"] == str(file)
    assert numbers_of(trained) == numbers


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_maes_official_layout(data, tmp_path, pool, capsys):
    """timm's names under "model"; fc_norm or norm tells what is classified."""
    net = vit(pool)
    torch.save({"model": net.state_dict()}, tmp_path / "mae_finetuned.pth")
    assert run("--eval", "--resume", tmp_path / "mae_finetuned.pth", "--val", data) == 0
    said = capsys.readouterr().err
    assert ("the mean of its patches" in said) == (pool == "avg")
    assert "4 attention heads assumed from its width of 128" in said
    numbers = numbers_of(tmp_path / "eval")
    assert numbers["acc1"] == pytest.approx(accuracy_of(net, data / "val"))


def test_another_image_size_interpolates_positions(data, tmp_path):
    """As timm does when it loads a file into a model of another size."""
    net = vit("avg")
    torch.save({"model": net.state_dict()}, tmp_path / "tuned.pth")
    larger = vit("avg", size=48)
    larger.load_state_dict(
        timm.models.vision_transformer.checkpoint_filter_fn(net.state_dict(), larger)
    )
    file = tmp_path / "tuned.pth"
    assert run("--eval", "--resume", file, "--val", data, "--input_size", 48) == 0
    found = numbers_of(tmp_path / "eval")["acc1"]
    assert found == pytest.approx(accuracy_of(larger, data / "val", 48))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--eval"], "--eval: name the model as --resume FILE or --output_dir DIR"),
        (["--data_path", "{}"], "give the pre-trained model as --checkpoint FILE"),
        (["--eval", "--resume", "{}/none.pth"], "there is no checkpoint"),
        (["--eval", "--resume", "{}/mae.pth"], "is not a classifier: fine-tune one first"),
        (["--eval", "--resume", "{}/tuned.pth", "--cls_token"], "leave out --cls_token"),
        (["--eval", "--resume", "{}/tuned.pth", "--no_global_pool"], "leave out --no_global_pool"),
        (["--eval", "--resume", "{}/tuned.pth"], "give the images to test on as --val"),
        (["--eval", "--resume", "{}/tuned.pth", "--num_heads", "3"], "3 does not divide its width"),
    ],
)
def test_what_cannot_be_tested_is_one_line(tmp_path, capsys, flags, message):
    save_mae(tmp_path / "mae.pth", depth=1)
    torch.save({"model": vit("avg").state_dict()}, tmp_path / "tuned.pth")
    assert run(*(str(flag).format(tmp_path) for flag in flags)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastimae-eval: error:") and message in error
    assert {path.name for path in tmp_path.iterdir()} == {"mae.pth", "tuned.pth"}


def test_a_recipe_still_asks_for_a_checkpoint(data, capsys):
    assert run("--recipe", "mae_vit_base", "--data_path", data) == 2
    assert "--checkpoint FILE" in capsys.readouterr().err
