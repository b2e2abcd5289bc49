"""A user's objective with all commands: it is one file, and no other code changes."""

import dataclasses
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fastimae import cli
from fastimae.arguments import UsageError, parse_training
from fastimae.config import ConfigError, flatten
from fastimae.engine.checkpoint import load_checkpoint
from fastimae.engine.trainer import Trainer

FILE = Path(__file__).parents[1] / "slow_teacher.py"
DATACLASS = "@dataclasses.dataclass(kw_only=True)\n"
NAMED = "--objective users_own:SlowTeacher"
SETTINGS = (
    f"{NAMED} --momentum 0.9 --synthetic --synthetic_samples 24 --num_workers 0 --device cpu "
    "--model mae_vit_nano_patch16 --input_size 32 --batch_size 4 --epochs 2 --warmup_epochs 1 "
    "--blr 0.1 --save_steps 1"
)

OF_NO_USE = """
@dataclasses.dataclass(kw_only=True)
class NeedySettings(MaskSettings):
    count: int

class Needy(SlowTeacher):
    Settings = NeedySettings

@dataclasses.dataclass(kw_only=True)
class CheckSettings(MaskSettings):
    check: bool = True

class Check(SlowTeacher):
    Settings = CheckSettings

class Plain(SlowTeacher):
    class Settings(MaskSettings):
        count: int = 3

class Other(SlowTeacher):
    class Settings:
        count: int = 3

class Pairs(SlowTeacher):
    needs_partners = True

class Idea(Objective):
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a folder with the user's file, which has not been imported yet."""
    shutil.copy(FILE, tmp_path / "users_own.py")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("users_own", None)


def tensors_of(state, name=""):
    """Return all tensors of a checkpoint by their path."""
    if torch.is_tensor(state):
        return {name: state}
    items = state.items() if isinstance(state, dict) else ()
    return {k: v for key, value in items for k, v in tensors_of(value, f"{name}/{key}").items()}


def killed_in_step(number, monkeypatch):
    """Interrupt training in step `number`, where only earlier checkpoints are saved."""
    real, steps = Trainer._train_step, iter(range(number + 1))

    def step(self, batches):
        if next(steps) == number:
            raise KeyboardInterrupt
        real(self, batches)

    monkeypatch.setattr(Trainer, "_train_step", step)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_to_the_same_bits(folder, monkeypatch, precision):
    """Student, predictor, teacher, its buffer and the optimizer resume mid-epoch."""
    command = f"{SETTINGS} --precision {precision} --output_dir"
    assert cli.train([*command.split(), "straight"]) == 0
    with monkeypatch.context() as patch:
        killed_in_step(9, patch)
        assert cli.train([*command.split(), "killed"]) == 130
    assert load_checkpoint(folder / "killed/checkpoint-last.pth")["step"] == 3
    assert cli.train([*command.split(), "killed", "--resume", "auto"]) == 0
    straight, killed = (
        tensors_of(load_checkpoint(folder / run / "checkpoint-last.pth"))
        for run in ("straight", "killed")
    )
    assert straight.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in straight.items())
    assert killed["/objective/updates"] == 12
    first = load_checkpoint(folder / "straight/checkpoint-0.pth")
    moved = killed["/objective/teacher.cls_token"] - first["objective"]["teacher.cls_token"]
    assert killed["/objective/teacher.cls_token"].dtype == torch.float32 and moved.any()


def test_other_commands_take_its_checkpoints(folder):
    assert cli.train([*SETTINGS.split(), "--output_dir", "run"]) == 0
    assert cli.export(["run/checkpoint-last.pth", "out.safetensors", "--to", "mae"]) == 0
    student = load_checkpoint(folder / "run/checkpoint-last.pth")["model"]
    assert torch.equal(load_file(folder / "out.safetensors")["cls_token"], student["cls_token"])
    assert cli.evaluate(["report", "--run", "run"]) == 0
    assert "SlowTeacher" in (folder / "run/report.html").read_text()


def test_its_settings_work_like_built_in_ones(folder, capsys):
    command = f"{NAMED} --momentum 0.5 --synthetic --print_config"
    assert parse_training("fastimae-train", command.split()) is None
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["momentum"] == 0.5
    (folder / "run.yaml").write_text(printed)
    config = parse_training("fastimae-train", ["--config", "run.yaml", "--mask_ratio", "0.6"])
    settings = flatten(config)
    assert (settings["momentum"], settings["mask_ratio"]) == (0.5, 0.6)
    assert config.objective.chosen_settings() == config.objective.chosen.Settings(
        momentum=0.5, mask_ratio=0.6
    )
    with pytest.raises(SystemExit):
        parse_training("fastimae-train", [*NAMED.split(), "--help"])
    assert "Share of the teacher's weights that a step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (f"{NAMED} --momentum 1.5", "--momentum must be between 0 and 1, not 1.5"),
        (f"{NAMED} --mix_beta 2", "--mix_beta has no effect with --objective users_own:Slow"),
        ("--momentum 0.5", "--momentum"),
        (
            "--objective slow",
            "slow is not one of: mae, imae, rmae, cmae, or your own as module:Class",
        ),
        ("--objective nowhere:Slow", "module nowhere cannot be imported (ModuleNotFoundError"),
        ("--objective users_own:Missing", "users_own has no Objective Missing"),
        ("--objective users_own:nn", "users_own has no Objective nn"),
        ("--objective users_own:Epochs", "rename its epochs, which is another setting"),
        (
            "--objective users_own:Beta",
            "its mix_beta clashes with a built-in setting: derive it from MixSettings",
        ),
        ("--objective users_own:Needy", "its count has no default"),
        ("--objective users_own:Check", "its check is a reserved name: rename it"),
        ("--objective users_own:Plain", "its Settings is not a dataclass derived from"),
        ("--objective users_own:Other", "its Settings is not a dataclass derived from"),
        ("--objective users_own:Pairs", "it needs partners: derive its Settings from"),
        ("--objective users_own:Idea", "it has no forward"),
    ],
    ids=lambda value: value.split()[-1] if value.startswith("--") else None,
)
def test_what_does_not_fit_is_named_in_one_line(folder, argv, words):
    with (folder / "users_own.py").open("a") as file:
        for name, setting in (("Epochs", "epochs"), ("Beta", "mix_beta")):
            file.write(
                f"\n@dataclasses.dataclass(kw_only=True)\nclass {name}Settings(MaskSettings):\n"
                f"    {setting}: int = 3\n"
                f"\nclass {name}(SlowTeacher):\n    Settings = {name}Settings\n"
            )
        file.write(OF_NO_USE)
    with pytest.raises((ConfigError, UsageError)) as error:
        parse_training("fastimae-train", ["--synthetic", *argv.split()])
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_built_in_setting_may_have_another_default(folder):
    with (folder / "users_own.py").open("a") as file:
        file.write(
            "\n@dataclasses.dataclass(kw_only=True)\nclass Settings(SlowTeacherSettings):\n"
            "    mask_ratio: float = 0.5\n\nclass Half(SlowTeacher):\n    Settings = Settings\n"
        )
    config = parse_training("fastimae-train", ["--synthetic", "--objective", "users_own:Half"])
    assert config.objective.mask_ratio == 0.5
    assert config.objective.chosen_settings() == dataclasses.replace(
        config.objective.chosen_settings(), momentum=0.996
    )
