"""No message about a checkpoint names a flag that the current command lacks."""

import dataclasses
import re

import pytest
import torch
from toy_images import save_colours

from fastimae.arguments import parse_training
from fastimae.build import build_objective
from fastimae.cli import evaluate, export, import_
from fastimae.config import TrainConfig, flatten
from fastimae.engine.checkpoint import CheckpointError
from fastimae.interop import load_model
from fastimae.interop.hints import Hints
from fastimae.loaders.errors import DataError
from fastimae.models import create_model

OTHER_COMMAND = re.compile(r"fastimae-(\w+) --\w+")
FLAG = re.compile(r"--(\w+)")


def weights(**model):
    sizes = {"img_size": 32, "depth": 1, **model}
    return create_model("mae_vit_nano_patch8", **sizes).state_dict()


def without(names, **model):
    return {key: value for key, value in weights(**model).items() if not key.startswith(names)}


def ours(**args):
    return {"model": weights(), "args": {"model": "mae_vit_nano_patch8", **args},
            "fastimae_format": 1}  # fmt: skip


FILES = {
    "foreign": lambda: weights(),
    "ours": lambda: ours(num_heads=4),
    "unknown width": lambda: weights(embed_dim=24, num_heads=2),
    "unknown decoder": lambda: weights(decoder_embed_dim=28, decoder_num_heads=7),
    "heads that do not divide": lambda: {"model": weights(), "args": {"num_heads": 7}},
    "an unexpected key": lambda: weights() | {"surplus.weight": torch.zeros(1)},
    "a missing key": lambda: without("norm."),
    "an encoder alone": lambda: without(("decoder", "mask_token")),
    "another size": lambda: weights(img_size=64, depth=2),
    "an i-MAE": lambda: weights(heads=2),
    "an i-MAE in the encoder's width": lambda: weights(heads=2, head_space="encoder"),
    "no transformer": lambda: {"conv1.weight": torch.zeros(3, 3)},
    "no weights": lambda: {"epoch": 3},
    "LayerScale": lambda: weights() | {"blocks.0.ls1.gamma": torch.ones(128)},
    "a probe after a BatchNorm": lambda: {
        **without(("decoder", "mask_token")), "head.0.running_mean": torch.zeros(128),
        "head.1.weight": torch.ones(3, 128), "head.1.bias": torch.zeros(3),
    },
    "no square": lambda: weights() | {"pos_embed": torch.zeros(1, 8, 128)},
    "an average beside": lambda: {"model": weights(), "model_ema": weights()},
    "a probe": lambda: {"model": {"0.running_mean": torch.zeros(8), "1.weight": torch.ones(2, 8)}},
    "a classifier": lambda: {
        **without(("decoder", "mask_token", "norm.")),
        "fc_norm.weight": torch.ones(128), "fc_norm.bias": torch.zeros(128),
        "head.weight": torch.ones(3, 128), "head.bias": torch.zeros(3),
    },
}  # fmt: skip
GIVEN = {
    "nothing": [],
    "heads": ["--num_heads", "3"],
    "other heads": ["--num_heads", "8", "--decoder_num_heads", "8"],
    "a name": ["--model", "mae_vit_base_patch16"],
    "an unknown name": ["--model", "resnet50"],
    "an average": ["--use_ema"],
    "a size": ["--input_size", "16", "64"],
}
TASKS = ("knn", "reconstruct", "attention", "separability", "finetune", "finetune --eval")
FEW = ("knn", "import", "export mae")
"""Commands of which one is given further flags, in turn: each way to read a file once."""
# What a task calls once it has loaded its models.
AFTERWARDS = (
    "labels.feature_cache.FeatureStore.features", "tasks.reconstruct.PairBatches",
    "tasks.attention.CenterBatches", "tasks.separability.collect",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("hints")
    for split in ("train", "val"):
        save_colours(root / "data" / split, 2)
    for name, content in FILES.items():
        torch.save(content(), root / f"{name}.pth")
    torch.save(ours(num_heads=4, decoder_num_heads=4), root / "teacher.pth")
    return root


def commands(place, name, said):
    """Yield (name, function, arguments) of every command that reads a checkpoint."""
    file, out = str(place / f"{name}.pth"), str(place / "out" / "x.pth")
    data = ["--data_path", str(place / "data"), "--device", "cpu", "--num_workers", "0"]
    for task in TASKS:
        task, *test = task.split()
        flags = [*test, "--resume", file] if test else ["--checkpoint", file]
        flags += ["--teacher", str(place / "teacher.pth")] if task == "separability" else []
        flags += ["--batch_size", "99"] if task == "finetune" and not test else []
        yield task, evaluate, [task, *flags, *data, *said, "--output_dir", str(place / "out")]
    yield "import", import_, [file, out, *said, "--force"]
    for to in ("timm", "mae", "huggingface"):
        path = out.removesuffix(".pth") if to == "huggingface" else out
        yield f"export {to}", export, [file, path, "--to", to, *said]


@pytest.fixture(scope="module")
def known():
    """Return a function that returns a command's flags, from its help."""
    kept = {}

    def flags_of(who, command, argv, capsys):
        if who not in kept:
            with pytest.raises(SystemExit):
                command([*argv[:1], "--help-all"] if command is evaluate else ["--help-all"])
            kept[who] = set(FLAG.findall(capsys.readouterr().out))
        return kept[who]

    return flags_of


def named(text):
    return set(FLAG.findall(OTHER_COMMAND.sub("", text)))


def stop(*_, **__):
    raise DataError("that is far enough")


@pytest.mark.parametrize("name", FILES)
def test_no_message_names_a_flag_of_another_command(place, known, capsys, name, monkeypatch):
    for part in AFTERWARDS:
        monkeypatch.setattr(f"fastimae.evaluate.{part}", stop)
    for turn, said in enumerate(GIVEN, [*FILES].index(name)):
        for who, command, argv in commands(place, name, GIVEN[said]):
            if GIVEN[said] and who != FEW[turn % len(FEW)]:
                continue
            flags = known(who, command, argv, capsys)
            command(argv)
            text = capsys.readouterr().err
            assert named(text) <= flags, (who, text)
            assert "Traceback" not in text


@pytest.mark.parametrize("name", FILES)
def test_training_names_its_own_flags(place, name, caplog, heard):
    file, texts = str(place / f"{name}.pth"), []
    base = ["--synthetic", "--model", "mae_vit_nano_patch8", "--input_size", "32"]
    for flags in (["--init", file], ["--init", file, "--allow_partial"], ["--objective", "imae",
                  "--teacher", file], ["--objective", "imae", "--teacher", file, "--teach_model",
                  "mae_vit_base_patch16"]):  # fmt: skip
        try:
            build_objective(parse_training("fastimae-train", [*base, *flags]))
        except (CheckpointError, ValueError) as error:
            texts.append(str(error))
    flags = flatten(TrainConfig()).keys()
    for text in (*texts, caplog.text):
        assert named(text) <= flags
    if name == "unknown width":
        assert any("--teach_num_heads" in text for text in texts)


@pytest.mark.parametrize("name", FILES)
def test_in_python_messages_name_arguments(place, name, caplog):
    texts = []
    for given in ({}, {"encoder_only": True}, {"num_heads": 3}, {"name": "x"}, {"use_ema": True}):
        try:
            load_model(place / f"{name}.pth", **given)
        except CheckpointError as error:
            texts.append(str(error))
    assert not any("--" in OTHER_COMMAND.sub("", text) for text in (*texts, caplog.text))


def test_hints_follow_the_options():
    @dataclasses.dataclass
    class Options:
        num_heads: int = 0
        std: int = 0
        teach_model: str = ""
        input_size: int = 0

    hints = Hints.of(Options, model="teach_model")
    assert hints.to_set("num_heads", "std", "model") == "--num_heads, --std and --teach_model"
    assert hints.to_set("mean") == "fastimae-import --mean"
    assert hints.suggest("allow_partial", "does it") == ""
    assert Hints.of(Options).to_resize() == ""
    assert hints.to_resize() == ": change --teach_model"
