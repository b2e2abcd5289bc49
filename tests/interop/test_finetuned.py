"""Fine-tuned files of MAE and ours as checkpoints: features, exports, teachers."""

import json

import pytest
import torch
from torch import nn
from toy_images import save_splits

from fastimae.cli import evaluate, export, import_
from fastimae.engine.checkpoint import CheckpointError
from fastimae.evaluate.features import features, load_encoder
from fastimae.evaluate.finetuning.classifier import load_classifier
from fastimae.interop import load_model
from fastimae.interop.hints import IN_PYTHON
from fastimae.interop.pretrained import load_init, load_teacher
from fastimae.models import create_model
from fastimae.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from fastimae.settings import ConfigError

timm = pytest.importorskip("timm")
CPU = torch.device("cpu")
CLOSE = {"rtol": 0, "atol": 2e-5}
POOLS = ("avg", "token")

pytestmark = pytest.mark.usefixtures("heard")


def vit(pool, **options):
    """Build timm's model with weights far from initial ones, so that every norm has an effect."""
    torch.manual_seed(4)
    net = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=4, num_classes=3,
        global_pool=pool, **options,
    )  # fmt: skip
    for value in net.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return net.eval()


@pytest.fixture(params=POOLS)
def official(request, tmp_path):
    """Return (timm's model, its file in MAE's layout of fine-tuned models)."""
    net = vit(request.param)
    content = {"model": net.state_dict(), "optimizer": {}, "epoch": 99}
    torch.save(content, tmp_path / "mae_finetuned.pth")
    return net, tmp_path / "mae_finetuned.pth"


def pixels(count=2):
    images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images, ((images / 255 - mean) / std).permute(0, 3, 1, 2)


def test_features_are_those_of_the_fine_tuned_model(official, caplog):
    """Features are the classifier's input: with mean pooling, fc_norm of the mean, without norm."""
    net, path = official
    images, inputs = pixels()
    model = load_encoder(path, CPU)
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(inputs), pre_logits=True)
    torch.testing.assert_close(features(model, images, None, "fp32"), expected, **CLOSE)
    assert "classifier dropped" in caplog.text and "fine-tuned" not in caplog.text
    assert ("fc_norm instead of norm" in caplog.text) == (net.global_pool == "avg")


def test_the_class_token_of_a_mean_is_refused(tmp_path):
    torch.save({"model": vit("avg").state_dict()}, tmp_path / "tuned.pth")
    model = load_encoder(tmp_path / "tuned.pth", CPU)
    with pytest.raises(ConfigError, match="use --pool avg"):
        features(model, pixels()[0], "cls")
    torch.save({"model": vit("token").state_dict()}, tmp_path / "tuned.pth")
    model = load_encoder(tmp_path / "tuned.pth", CPU)
    assert features(model, pixels()[0], "avg").shape == (2, 128)


def test_a_norm_before_the_mean_and_one_after(tmp_path):
    """timm's models can have both, and so can its files."""
    net = vit("avg", fc_norm=True, final_norm=True)
    torch.save(net.state_dict(), tmp_path / "both.pth")
    images, inputs = pixels()
    with torch.no_grad():
        expected = net.forward_head(net.forward_features(inputs), pre_logits=True)
    model = load_encoder(tmp_path / "both.pth", CPU)
    torch.testing.assert_close(features(model, images, "avg", "fp32"), expected, **CLOSE)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    save_splits(root, 6)
    return root


TASKS = {
    "knn": [],
    "linear": ["--epochs", "1", "--warmup_epochs", "0", "--batch_size", "9"],
    "fewshot": ["--shots", "2", "--draws", "1"],
    "attention": ["--samples", "1"],
    "tsne": ["--samples", "18"],
    "weights": [],
    "finetune": ["--epochs", "1", "--batch_size", "9"],
}


@pytest.mark.parametrize(
    ("official", "task"),
    [*(("avg", task) for task in TASKS), ("token", "finetune")],
    indirect=["official"],
)
def test_every_task_of_an_encoder_reads_them(official, task, data, tmp_path):
    pytest.importorskip("sklearn")
    net, path = official
    flags = ["--checkpoint", str(path), "--output_dir", str(tmp_path / task), "--device", "cpu"]
    flags += ["--num_workers", "0", "--data_path", str(data), *TASKS[task]]
    flags += ["--cls_token"] if task == "finetune" and net.global_pool == "token" else []
    assert evaluate([task, *flags]) == 0
    results = json.loads((tmp_path / task / "results.json").read_text())
    if task == "weights":  # the file has no decoder, so none is listed
        names = [row["weight"] for row in results["numbers"]["table"]]
        assert names and not any(name.startswith("decoder") for name in names)


def test_pictures_are_refused(official, data, capsys):
    flags = ["--checkpoint", str(official[1]), "--data_path", str(data), "--device", "cpu"]
    assert evaluate(["reconstruct", *flags]) == 2
    assert "has no decoder, only an encoder" in capsys.readouterr().err


def test_features_of_two_norms_are_cached_separately(tmp_path):
    """The feature cache depends on fc_norm, as the features do."""
    from fastimae.evaluate.labels.feature_cache import encoder_digest

    net = vit("avg")
    digests = set()
    for shift in (0.0, 0.5):
        net.fc_norm.bias.data += shift
        torch.save({"model": net.state_dict()}, tmp_path / "tuned.pth")
        digests.add(encoder_digest(load_encoder(tmp_path / "tuned.pth", CPU)))
    assert len(digests) == 2


def test_fine_tuning_starts_from_its_norm(tmp_path):
    from fastimae.evaluate.finetuning.classifier import build_classifier

    net = vit("avg")
    torch.save({"model": net.state_dict()}, tmp_path / "tuned.pth")
    encoder = load_model(tmp_path / "tuned.pth", encoder_only=True)
    student = build_classifier(encoder, 3, global_pool=True).eval()
    assert torch.equal(student.fc_norm.weight, net.fc_norm.weight)
    student.head.load_state_dict(net.head.state_dict())
    _, inputs = pixels()
    with torch.no_grad():
        torch.testing.assert_close(student(inputs), net(inputs), rtol=1e-5, atol=1e-4)
    with pytest.raises(ValueError, match="leave out --cls_token"):
        build_classifier(encoder, 3, global_pool=False)


def test_export_and_import_keep_the_classifier(official, tmp_path, capsys):
    net, path = official
    imported, exported = tmp_path / "ours.pth", tmp_path / "timm.safetensors"
    assert import_([str(path), str(imported)]) == 0
    assert "with a classifier of" in capsys.readouterr().err
    assert export([str(imported), str(exported), "--to", "timm"]) == 0
    again = vit(net.global_pool)
    timm.models.load_checkpoint(again, str(exported))
    images, inputs = pixels()
    with torch.no_grad():
        assert torch.equal(again(inputs), net(inputs))
        expected = net.forward_head(net.forward_features(inputs), pre_logits=True)
    found = features(load_encoder(imported, CPU), images, None, "fp32")
    torch.testing.assert_close(found, expected, **CLOSE)


def test_exports_that_would_lose_the_norm_are_refused(tmp_path, capsys):
    torch.save({"model": vit("avg").state_dict()}, tmp_path / "tuned.pth")
    command = [str(tmp_path / "tuned.pth"), str(tmp_path / "out")]
    assert export([*command, "--to", "huggingface"]) == 2
    assert "ViTMAE does not support: use --to timm" in capsys.readouterr().err
    assert export([*command[:1], str(tmp_path / "out.pth"), "--to", "timm",
                   "--global_pool", "token"]) == 2  # fmt: skip
    assert "drop --global_pool token" in capsys.readouterr().err


def test_a_classifier_of_the_class_token_is_not_exported_for_a_mean(tmp_path, capsys):
    """Its encoder alone is."""
    tuned, alone, out = (tmp_path / f"{name}.pth" for name in ("tuned", "alone", "out"))
    weights = vit("token").state_dict()
    torch.save({"model": weights}, tuned)
    torch.save({k: v for k, v in weights.items() if not k.startswith("head.")}, alone)
    assert export([str(tuned), str(out), "--to", "timm", "--global_pool", "avg"]) == 2
    assert "classifier of its class token" in capsys.readouterr().err and not out.exists()
    assert export([str(alone), str(out), "--to", "timm", "--global_pool", "avg"]) == 0
    assert "fc_norm.weight" in torch.load(out)


def test_a_model_without_a_name_is_called_by_its_width(official, tmp_path, capsys):
    assert import_([str(official[1]), str(tmp_path / "out.pth"), "--num_heads", "2"]) == 0
    told = capsys.readouterr().err
    assert "an encoder of width 128, 32x32 px" in told and "None" not in told


def test_as_teacher_and_initial_weights(tmp_path):
    student = create_model("mae_vit_nano_patch8", img_size=32, depth=2, heads=2,
                           head_space="encoder")  # fmt: skip
    for pool in POOLS:
        net = vit(pool)
        path = tmp_path / f"{pool}.pth"
        torch.save({"model": net.state_dict()}, path)
        load_init(student, path, allow_partial=True)
        assert torch.equal(student.blocks[1].mlp.fc1.weight, net.blocks[1].mlp.fc1.weight)
    assert torch.equal(load_teacher(path, student).norm.weight, net.norm.weight)
    with pytest.raises(CheckpointError, match="has no norm, which the latents of a teacher need"):
        load_teacher(tmp_path / "avg.pth", student)


def test_a_linear_probe_names_what_it_lacks(data, tmp_path, capsys):
    """Checkpoints of our linear probe hold the probe alone."""
    torch.save({"model": vit("token").state_dict()}, tmp_path / "tuned.pth")
    flags = ["--data_path", str(data), "--device", "cpu", "--num_workers", "0"]
    linear = ["linear", "--checkpoint", str(tmp_path / "tuned.pth"), "--epochs", "1"]
    assert evaluate([*linear, "--warmup_epochs", "0", "--batch_size", "9", *flags]) == 0
    probe = tmp_path / "eval-linear" / "checkpoint-best.pth"
    assert evaluate(["knn", "--checkpoint", str(probe), *flags]) == 2
    assert "is a probe of features, without the encoder" in capsys.readouterr().err


def linear_probe(pool="token"):
    """Build MAE's linear probe: its head is a BatchNorm without weights and a Linear."""
    net = vit(pool)
    net.head = nn.Sequential(nn.BatchNorm1d(128, affine=False, eps=1e-6), nn.Linear(128, 3))
    return net


def test_a_linear_probe_after_a_batch_norm(data, tmp_path, caplog, capsys):
    net, path = linear_probe(), tmp_path / "mae_linprobe.pth"
    torch.save({"model": net.state_dict(), "epoch": 89}, path)
    images, inputs = pixels()
    model = load_encoder(path, CPU)
    with torch.no_grad():
        expected = net.forward_features(inputs)[:, 0]
    torch.testing.assert_close(features(model, images, "cls", "fp32"), expected, **CLOSE)
    assert "num_batches_tracked" not in caplog.text and "using" not in caplog.text
    (line,) = (text for text in caplog.messages if "classifier dropped" in text)
    assert "an encoder with a linear probe after a BatchNorm" in line
    flags = ["--val", str(data / "val"), "--device", "cpu", "--num_workers", "0"]
    assert evaluate(["finetune", "--eval", "--resume", str(path), *flags]) == 2
    error = capsys.readouterr().err
    assert "is an encoder with a linear probe after a BatchNorm, no fine-tuned" in error
    assert "--checkpoint" in error and "fastimae-eval linear" in error


@pytest.mark.parametrize("pool", POOLS)
def test_an_export_drops_a_probe_completely(tmp_path, pool):
    """timm does not support its BatchNorm."""
    path, out = tmp_path / "probe.pth", tmp_path / "timm.pth"
    net = linear_probe(pool)
    torch.save(net.state_dict(), path)
    assert export([str(path), str(out), "--to", "timm"]) == 0
    again = vit(pool)
    again.reset_classifier(0)
    timm.models.load_checkpoint(again, str(out))
    _, inputs = pixels()
    with torch.no_grad():
        assert torch.equal(again.forward_features(inputs), net.forward_features(inputs))


def test_a_classifier_of_ours_does_not_state_its_targets(tmp_path, caplog):
    settings = {"num_heads": 4, "mean": [0.5] * 3}
    content = {"model": vit("token").state_dict(), "args": settings, "fastimae_format": 2}
    torch.save(content, tmp_path / "ours.pth")
    student = create_model("mae_vit_nano_patch8", img_size=32, norm_pix_loss=True)
    for blocks in (student.blocks, student.decoder_blocks):
        del blocks[2:]
    load_init(student, tmp_path / "ours.pth", allow_partial=True)
    (line,) = (text for text in caplog.messages if "was trained with" in text)
    assert "norm_pix_loss" not in line and "mean (0.5" in line


def test_a_classifier_of_the_mean_without_fc_norm_is_refused(tmp_path):
    """Only timm's config.json distinguishes it from one of the class token; imports keep that."""
    net = vit("avg", fc_norm=False)
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    config = {"architecture": "vit", "global_pool": "avg", "model_args": {"num_heads": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    imported = tmp_path / "imported.pth"
    assert import_([str(tmp_path), str(imported)]) == 0
    for file in (imported, tmp_path):
        with pytest.raises(ConfigError, match="mean of normalised latents"):
            load_classifier(file, hints=IN_PYTHON)
        assert load_model(file, encoder_only=True)
