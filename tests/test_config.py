"""Settings: MAE's flags, recipes, YAML, and errors that name the flag."""

import re
from pathlib import Path

import pytest

from fastimae.arguments import UsageError, parse_training
from fastimae.config import TrainConfig, flatten
from fastimae.recipes import RECIPES
from fastimae.settings import ConfigError

FLAGS = Path(__file__).with_name("cli_flags.txt")


def parsed(command=""):
    return flatten(parse_training("fastimae-train", command.split()))


def test_no_flag_appears_or_disappears_unseen():
    """To add a flag on purpose, add its name to tests/cli_flags.txt."""
    assert list(flatten(TrainConfig())) == FLAGS.read_text().split()


def test_maes_flags_and_defaults():
    """As in main_pretrain.py, except --device (auto finds the GPU), --log_dir (output_dir) and
    --num_workers (one per core)."""
    defaults = {
        "batch_size": 64, "epochs": 400, "accum_iter": 1, "model": "mae_vit_large_patch16",
        "input_size": [224], "mask_ratio": 0.75, "norm_pix_loss": False, "weight_decay": 0.05,
        "lr": None, "blr": 1e-3, "min_lr": 0.0, "warmup_epochs": 40, "output_dir": "output_dir",
        "seed": 0, "resume": "", "start_epoch": 0, "pin_mem": True,
        "world_size": 1, "local_rank": -1, "dist_on_itp": False, "dist_url": "env://",
    }  # fmt: skip
    got = parsed()
    assert {name: got[name] for name in defaults} == defaults


def test_maes_command_line_works_verbatim():
    got = parsed(
        "--batch_size 64 --model mae_vit_large_patch16 --norm_pix_loss --mask_ratio 0.75 "
        "--epochs 800 --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05 --data_path /in "
        "--no_pin_mem --local_rank 2 --dist_url tcp://a:1 --log_dir x --device cuda"
    )
    assert got["norm_pix_loss"] and not got["pin_mem"] and got["local_rank"] == 2
    assert (got["data_path"], got["blr"], got["log_dir"]) == ("/in", 1.5e-4, "x")


def test_hyphens_and_imaes_names_are_aliases():
    got = parsed(
        "--mask-ratio 0.6 --norm-pix-loss --local-rank 1 --objective imae --teacher_path t.pth "
        "--same-prob 0.5 --input-size 32 48"
    )
    assert got["mask_ratio"] == 0.6 and got["norm_pix_loss"] and got["local_rank"] == 1
    assert got["teacher"] == "t.pth" and got["same_class_ratio"] == 0.5
    assert got["input_size"] == [32, 48]


def test_flags_win_over_config_over_recipe(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 7\nblr: 0.5\nmean: [0.1, 0.2, 0.3]\ninput_size: 64\n")
    got = parsed(f"--recipe imae_cifar10 --config {file} --epochs=9")
    assert (got["epochs"], got["blr"], got["objective"]) == (9, 0.5, "imae")
    assert got["mean"] == [0.1, 0.2, 0.3] and got["input_size"] == [64]
    file.write_text("recipe: imae_cifar10\nepochs: 7\n")
    assert parsed(f"--config {file}")["model"] == "mae_vit_tiny_patch4"


def test_printed_settings_make_the_same_run(tmp_path, capsys):
    command = "--recipe mae_vit_base --ffcv a.beton --clip_grad 1 --no_hflip"
    assert parse_training("fastimae-train", [*command.split(), "--print_config"]) is None
    file = tmp_path / "run.yaml"
    file.write_text(capsys.readouterr().out)
    again, first = parsed(f"--config {file}"), parsed(command)
    for name in ("config", "recipe"):
        assert again.pop(name) != first.pop(name)
    assert again == first


TYPED = (
    "--crop_ratio 1e-05 2.0 --value_range -1e-05 3e+16 --mean 0.1 0.2 0.3 --weight_decay 0 "
    "--blr 1e-20 --clip_grad 1 --label_field 12 --image_field yes --log_dir 0x10 --output_dir ~/x "
    "--input_size 32 48 --decoder ffcv --ffcv_ops on:off --no_pin_mem --wandb 1.5"
)
ROUND_TRIPS = {
    "defaults": "",
    **{name: f"--recipe {name}" for name in RECIPES},
    "typed": f"--ffcv null.beton {TYPED}",
    "unusual": "--data_path ä'\":#{}, --output_dir 2026-11-28",
    "imae": "--objective imae --teacher t.pth --mix_lambda 0.25 --same_class_ratio 0.5",
    "your own": "--objective slow_teacher:SlowTeacher --momentum 0.5",
}


def printed(capsys, *argv):
    assert parse_training("fastimae-train", [*argv, "--print_config"]) is None
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_printed_settings_read_back_print_the_same(tmp_path, capsys, name):
    """Byte for byte, also with the starts that a run.yaml lists."""
    first = printed(capsys, *ROUND_TRIPS[name].split())
    file = tmp_path / "run.yaml"
    file.write_text(f"{first}starts:\n- command: x\n", encoding="utf-8")
    assert printed(capsys, "--config", str(file)) == first


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_changes_the_settings_that_it_names_and_no_other(name):
    got, default = parsed(f"--recipe {name}"), parsed()
    named = {**RECIPES[name](), "recipe": name}
    assert {key: named.get(key, default[key]) for key in default} == got
    assert "Command:" in RECIPES[name].__doc__ and "Expected:" in RECIPES[name].__doc__


def test_an_augmentation_stands_for_flags_beside_which_others_win(tmp_path):
    strong, plain = {"min_crop": 0.08, "color_jitter": 0.4, "blur": 0.5}, parsed()
    file = tmp_path / "run.yaml"
    file.write_text("aug: strong\nmin_crop: 0.3\n")
    assert parsed("--aug strong") == {**plain, "aug": "strong", **strong}
    demo = {**parsed("--recipe demo --mix_lambda 0.3"), "aug": "strong", **strong, "blur": 0.1}
    assert parsed("--recipe demo --mix_lambda 0.3 --aug strong --blur 0.1") == demo
    of_file = {**strong, "min_crop": 0.3, "color_jitter": 0.2}
    got = parsed(f"--config {file} --color_jitter 0.2")
    assert got == {**plain, "config": str(file), "aug": "strong", **of_file}
    assert parsed(f"--config {file} --aug strong")["min_crop"] == 0.08
    file.write_text("aug: [strong]\nmin-crop: 0.3\n")
    assert parsed(f"--config {file}")["blur"] == 0.5
    assert parsed(f"--config {file} --aug None") == {**plain, "config": str(file), "min_crop": 0.3}


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("--objective mae", {"mix_lambda"}),
        ("--crop none", {"min_crop"}),
        ("--crop none --objective mae", {"mix_lambda", "min_crop"}),
    ],
)
def test_what_a_recipe_sets_without_effect_has_its_default(flags, names):
    """As the flag beside it asks for; what flags or a file set is a mistake: see below."""
    default, words = parsed(), flags.replace("--", "").split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    dropped = {name: default[name] for name in names}
    assert parsed(f"--recipe demo {flags}") == {**parsed("--recipe demo"), **dropped, **given}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--no_such_flag 3", "--no_such_flag"),
        ("--epochs many", "--epochs"),
        ("--precision fp8", "--precision"),
        ("--mask_ratio 1.5", "--mask_ratio must be at least 0 and below 1, not 1.5"),
        ("--input_size 1 2 3", "--input_size takes a side"),
        ("--batch_size 0", "--batch_size must be positive"),
        ("--save_freq 0", "--save_freq must be positive"),
        ("--min_crop 0.9 --max_crop 0.3", "--min_crop 0.9 and --max_crop 0.3"),
        ("--same_class_ratio 2", "--same_class_ratio"),
        ("--teacher t.pth", "--teacher has no effect with --objective mae"),
        ("--objective imae --teacher_view mixed", "--teacher_view has no effect without --teacher"),
        ("--objective imae --mix_lambda 0.3 --mix_beta 2", "--mix_beta has no effect"),
        ("--decoder pillow", "--decoder has no effect without --ffcv"),
        ("--color_jitter_on visible", "--color_jitter_on has no effect without --color_jitter"),
        ("--mix_group 16", "--mix_group has no effect without --cutmix: drop it"),
        ("--cutmix 1 --mix_group 1", "mixed with itself: make --mix_group 2"),
        ("--cutmix -1", "--cutmix must not be negative"),
        ("--blur 2", "--blur must be in 0..1, not 2.0"),
        (
            "--mean 123.7 116.3 103.5",
            "--mean must be in 0..1, not 123.7: values are divided by 255",
        ),
        ("--std 0.2 58.4 57.1", "--std must be above 0, and at most 1, not 58.4: values are div"),
        ("--objective imae --cutmix 1", "--cutmix has no effect with --objective imae"),
        ("--objective imae --mask_ratio 0", "--mask_ratio must be between 0 and 1, not 0.0"),
        ("--mask_ratio 0 --ignore_boundary 2", "--ignore_boundary has no effect with --mask_ratio"),
        ("--aug strang", "--aug takes one of strong, not strang: did you mean strong?"),
        (
            "--aug strong --crop none",
            "--min_crop (--aug strong) has no effect with --crop none: drop one of them",
        ),
        ("--objective imae --mix_lambda 1", "--mix_lambda must be between 0 and 1, not 1.0"),
        ("--resume auto --start_epoch 3", "--start_epoch has no effect with --resume"),
        ("--objective imae --mix_group 1", "mixed with itself: make --mix_group 2"),
        ("--objective imae --mix_group 0 --batch_size 4 --repeated_aug 4", "mixed with itself"),
        ("--repeated_aug 0", "--repeated_aug must be positive"),
        ("--dist_timeout 0", "--dist_timeout must be positive"),
        ("--preempt_signal SIGKILL", "--preempt_signal"),
        ("--parallel fsdp --opt apex_adam", "--parallel fsdp needs --opt adamw"),
        ("--value_range 5", "--value_range takes 2 numbers, not 5 (fastimae-train"),
        ("--value_range a b", "--value_range takes 2 numbers, not a b (fastimae-train"),
        ("--value_range", "--value_range needs a value: it takes 2 numbers (fastimae-train"),
        ("--same_prob x", "--same_prob takes a number, not x (fastimae-train"),
        ("--num_heads x", "--num_heads takes a whole number, not x (fastimae-train"),
        ("--crop_ratio 1", "--crop_ratio takes 2 numbers, not 1"),
        (
            "--recipe demo --crop none --min_crop 0.6",
            "--min_crop has no effect with --crop none: drop one of them",
        ),
        (
            "--recipe demo --objective mae --mix_lambda 0.3",
            "--mix_lambda has no effect with --objective mae: drop one of them",
        ),
        ("--crop none --min_crop 0.6", "with --crop none: drop one of them"),
        ("--recipe nothing", "--recipe nothing is not one of: mae_vit_base"),
        ("--config missing.yaml", "--config missing.yaml"),
        ("--recipe", "--recipe"),
        ("--config", "--config"),
    ],
)
def test_wrong_settings_are_one_line_that_names_the_flag(argv, words):
    with pytest.raises((UsageError, ConfigError), match=re.escape(words)) as error:
        parsed(argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_such: 1", "line 1: there is no setting called no_such"),
        ("3: 4", "line 1: there is no setting called 3"),
        (
            "blr: 1\n\nepoch: 3",
            "line 3: there is no setting called epoch: did you mean epochs or epoch_samples?",
        ),
        ("learning_rate: 1e-3", "no setting called learning_rate: use lr or blr"),
        ("optim:\n  epochs: 3", "line 1: write the settings below optim at the top level"),
        ("epochs: many", 'line 1: epochs takes a whole number, not "many"'),
        ("blr: 1\nbatch_size: 1.5", "line 2: batch_size takes a whole number, not 1.5"),
        ("epochs: true", "epochs takes a whole number, not true"),
        ("epochs: [1, 2]", "epochs takes a whole number, not [1, 2]"),
        ("epochs: {a: 1}", 'epochs takes a whole number, not {"a": 1}'),
        ("output_dir: {a: 1}", 'output_dir takes a path, not {"a": 1}'),
        ("crop_ratio: 1", "crop_ratio takes 2 numbers, not 1"),
        ("norm_pix_loss: maybe", 'norm_pix_loss takes true or false, not "maybe"'),
        ("precision: fp8", 'one of auto, bf16, fp16, fp32, not "fp8"'),
        ("precision: half", "did you mean fp16?"),
        ("compile: yes", "compile takes one of auto, on, off, not true: did you mean on?"),
        ("epochs: null", "epochs needs a value: it takes a whole number"),
        ("data_path: ''", "data_path needs a value: it takes a path"),
        ("objective:", "objective needs a value"),
        ("resume: null", "resume needs a value"),
        ("blr: 1\nmask_ratio: 1.5", "line 2: mask_ratio must be at least 0 and below 1, not 1.5"),
        ("epochs: 3\nmix_lambda: 0.3", "line 2) has no effect with --objective mae"),
        ("recipe: mae_base", "line 1: --recipe mae_base is not one of"),
        ("recipe: [demo]", "line 1: --recipe ['demo'] is not one of"),
        ("epochs: 3\nblr: 1\nepochs: 4", "line 3: epochs is given twice"),
        ("just words", "expected lines of the form 'batch_size: 64', not a text"),
        ("epochs=3", "expected lines of the form"),
        ("epochs:3", "expected lines of the form"),
        ("- epochs: 3", "not a list"),
        ("", "not an empty file"),
        ("\n \n", "not an empty file"),
        ("epochs: 3\n\tblr: 1", "line 2: a tab, which YAML does not allow here"),
        ("\tepochs: 3", "line 1: a tab"),
        ("epochs: 3\na: [", "line 2"),
        ("epochs: 3\n? [a]\n: 1", "line 2: found unhashable key"),
        ("epochs: 3\nblr: !!python/object:os.system 1", "line 2: could not determine"),
        ("epochs: 3\n---\nblr: 1", "line 2: but found another document"),
        ("epochs: 3\nblr: \x00", "line 2: special characters are not allowed"),
        ("# Größe".encode("latin-1"), "this is no text file in UTF-8"),
        (bytes(range(256)), "this is no text file in UTF-8"),
    ],
    ids=repr,
)
def test_wrong_files_are_named(tmp_path, text, words, capsys):
    file = tmp_path / "run.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=re.escape(words)) as error:
        parsed(f"--config {file}")
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert capsys.readouterr().err == ""


def test_a_file_may_write_values_as_people_do(tmp_path):
    """YAML reads 1e-3 as text, and quoted numbers; Windows' editors begin files with a mark."""
    file = tmp_path / "run.yaml"
    file.write_bytes(
        b"\xef\xbb\xbf# ours\nlr: 1e-3\nmask-ratio: '0.6'\nnorm_pix_loss: yes\npin_mem: off\n"
        b"epochs: 1_000\ninput_size: [32, 48]\noutput_dir: 2024-01-01\nclip_grad: null\n"
    )
    got = parsed(f"--config {file}")
    assert (got["lr"], got["mask_ratio"], got["epochs"]) == (1e-3, 0.6, 1000)
    assert (got["norm_pix_loss"], got["pin_mem"], got["clip_grad"]) == (True, False, None)
    assert (got["input_size"], got["output_dir"]) == ([32, 48], "2024-01-01")
    file.write_text("# nothing is changed\n")
    assert parsed(f"--config {file}")["epochs"] == parsed()["epochs"]


def test_a_flag_is_not_blamed_on_the_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("mix_lambda: 0.3\nrecipe: nothing\n")
    with pytest.raises(ConfigError, match=r"^--mix_lambda has no effect with --objective mae"):
        parsed(f"--config {file} --recipe mae_vit_base --mix_lambda 0.4")


@pytest.mark.parametrize("text", ["objective: nope", "objective: [mae]", "objective: 3"])
def test_an_objective_of_a_file_that_is_none(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"--objective .* is not one of: mae, imae"):
        parsed(f"--config {file}")
