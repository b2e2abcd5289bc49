"""A mistake on the command line is one line: what is wrong, what to type, where to read on."""

import re
import shlex

import pytest
from commands import COMMANDS, OPTIONS

from fastimae import arguments, other_names
from fastimae.declarations import declared, documentation
from fastimae.flags import flags_of
from fastimae.mistakes import mistakes
from fastimae.recipes import RECIPES
from fastimae.values import arity

MISTAKES = """
train --learning_rate 1e-3              | no flag --learning_rate: use --lr or --blr
train --batchsize 3                     | did you mean --batch_size?
train --epoch 3                         | did you mean --epochs or --epoch_samples?
train --EPOCHS 3                        | did you mean --epochs?
train --num-worker 3                    | did you mean --num_workers?
train --datapath x                      | did you mean --data_path?
train --output x                        | use --output_dir
train --ouput_dir x                     | did you mean --output_dir?
train --mask 0.5                        | use --mask_ratio
train --workers 3                       | use --num_workers
train --data x                          | use --ffcv or --data_path
train --data_dir x                      | use --ffcv or --data_path
train --batch 3                         | use --batch_size
train -b 3                              | use --batch_size
train -lr 1                             | did you mean --lr?
train --max_epochs 3                    | use --epochs
train --gpus 2                          | torchrun uses several
train --devices 2                       | torchrun uses several
train --distributed                     | torchrun or srun starts several processes
train --amp                             | --precision bf16, fp16 or fp32
train --fp16                            | --precision bf16, fp16 or fp32
train --bf16                            | --precision bf16, fp16 or fp32
train --wd 0.1                          | use --weight_decay
train --warmup 3                        | use --warmup_epochs
train --pretrained x                    | --init FILE
train --checkpoint x                    | --resume FILE continues a run
train --ckpt x                          | --resume FILE continues a run
train --eval                            | fastimae-eval knn
train --logdir x                        | did you mean --log_dir?
train --model_ema_decay 0.9999          | use --model_ema
train --eval_freq 5                     | use --probe_freq
eval segment --val_interval 5            | use --val_freq
eval knn --ema                          | use --use_ema
train --exp_name x                      | --output_dir FOLDER
train --optimizer adam                  | use --opt (fastimae-train --help-all)
train --sched cosine                    | half a cosine
train --patch_size 8                    | --model mae_vit_
train --workers 3 --batch 4             | --num_workers; there is no flag --batch: use --batch_size
train --foo                             | there is no flag --foo (fastimae-train --help)
train --verison                         | did you mean --version?
train --opt adam                        | not adam: did you mean adamw?
train --precision float16               | did you mean fp16?
train --precision fp8                   | one of auto, bf16, fp16, fp32, not fp8
train --compile true                    | did you mean on?
train --epochs 0.5                      | --epochs takes a whole number, not 0.5
train --epochs many                     | --epochs takes a whole number, not many
train --epochs                          | --epochs needs a value: it takes a whole number
train --epochs 3 4                      | --epochs takes a whole number, not 3 4
train --epochs=3,4                      | --epochs takes a whole number, not 3,4
train --input_size 224x224              | one or more whole numbers, not 224x224
train --crop_ratio 1                    | takes 2 numbers, not 1 (fastimae-train --help-all)
train --mean a b c                      | one or more numbers, not a b c
train --norm_pix_loss True              | is a switch and takes no value: drop True
train --norm_pix_loss=True              | is a switch and takes no value: drop True
train --pin_mem False                   | use --no_pin_mem
train --pin_mem folder                  | use --data_path folder
train --pin_mem nothing                 | unexpected nothing
convert --reencode true folder x.beton  | is a switch and takes no value: drop true
train --no_epochs                       | --epochs is no switch, it takes a whole number
train --lr 1 --lr 2                     | --lr is given twice
train --data_path my data               | a path with spaces: --data_path 'my data'
train --data_path your data             | put quotes around your data
train --data_path ""                    | the value of --data_path is empty: there is a space too
train --epochs= 3                       | the value of --epochs is empty
train ""                                | one of the words is empty
train --init=                           | the value of --init is empty
train --recipe                          | --recipe needs a value: Name of a recipe
train F.beton                           | use --ffcv F.beton
train folder                            | use --data_path folder
train --epochs 3 folder                 | use --data_path folder
train run.yaml                          | use --config run.yaml
train x.pth                             | use --resume x.pth or --init x.pth
train mae_vit_base                      | use --recipe mae_vit_base
train mae_vit_base_patch16              | use --model mae_vit_base_patch16
train imae                              | use --objective imae
train epochs=3                          | did you mean --epochs=3?
train \N{EN DASH}epochs 3                | did you mean --epochs?
train nothing                           | unexpected nothing: put its flag in front
train -- --epochs 3                     | drop the --
train --mask_ratio 1.5                  | --mask_ratio must be at least 0 and below 1, not 1.5
train --epochs -3                       | --epochs must be positive, not -3
train --mix_lambda 0.3                  | no effect with --objective mae
train --recipe mae_base                 | did you mean mae_vit_base?
train --objective mae2                  | did you mean mae?
train --config none.yaml                | --config none.yaml: No such file
convert                                 | SRC is missing: What to convert
convert folder                          | OUT is missing: name the file to write
convert --src folder --out F.beton      | give SRC without a flag; there is no flag --out: give OUT
convert folder x.beton 3                | unexpected 3
convert folder x.beton --num_workers 3  | use --workers
convert folder x.beton --quality 3      | use --jpeg_quality
convert folder x.beton --resize 3       | use --max_resolution
convert folder x.beton --force          | use --overwrite
convert folder x.beton --mode jpeg      | did you mean jpg?
eval kn                                 | no task kn: did you mean knn? (fastimae-eval --help)
eval fine-tune                          | did you mean finetune?
eval linprobe                           | did you mean linear?
eval nothing                            | use one of finetune, linear
eval x.pth                              | the task comes first: fastimae-eval knn --checkpoint x.pth
eval --checkpoint x.pth tsne            | the task comes first: fastimae-eval tsne --checkpoint
eval knn                                | --checkpoint PATH is missing: Checkpoint of fastimae-train
eval knn x.pth                          | use --checkpoint x.pth
eval knn --ckpt x.pth                   | use --checkpoint
eval knn --checkpoint x.pth F.beton     | use --ffcv F.beton or --val F.beton
eval knn --checkpoint x.pth --epochs 3  | --epochs: it belongs to fastimae-train
eval knn --k 10 a                       | --k takes one or more whole numbers, not 10 a
eval knn --pool mean                    | did you mean avg?
eval finetune --checkpoint a --fp16     | --precision
eval reconstruct --mask_ratio 0.5       | use --mask_ratios
eval separability                       | --checkpoint PATH and --teacher PATH are missing
eval report no_such_folder              | no_such_folder
eval compare a b --ouput_dir x          | did you mean --output_dir?
eval compare a --all b                  | b is apart from the others: give them in a row
eval study few.yaml --vall F.beton      | did you mean --val?
eval study --val F.beton                | FILE is missing: The study: a YAML file, or the name
eval study few.yaml run.yaml            | few.yaml: No such file
eval semantics --ratios 0               | use fastimae-eval study imae_table1_cifar10
export                                  | CHECKPOINT, OUT and --to {timm,
export x.pth                            | OUT and --to
export x.pth y                          | --to {timm,huggingface,detectron2,mae,fastimae} is missing
export x.pth y --to hf                  | did you mean huggingface?
export x.pth y --format timm            | use --to
export x.pth y huggingface              | use --to huggingface
import x.pth                            | OUT is missing
import --checkpoint x.pth y             | give CHECKPOINT without a flag
bench --ffcv F.beton                    | give F.beton without a flag
bench F.beton folder                    | unexpected folder
bench --mask_ratio 0.5                  | it belongs to fastimae-train
bench --batch_size all                  | --batch_size takes a whole number, not all
doctor all                              | unexpected all
"""
TABLE = [tuple(map(str.strip, line.split("|"))) for line in MISTAKES.strip().splitlines()]


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """Make the files that the mistakes name, in the current folder."""
    for name in ("F.beton", "x.pth", "run.yaml"):
        (tmp_path / name).write_text("epochs: 3\n")
    for name in ("folder", "my data"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)


def error_of(words, capsys):
    """Run a command that fails, and return its one line."""
    name, *argv = shlex.split(words)
    assert COMMANDS[name](argv) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith(f"fastimae-{name}: error: ")
    return line


@pytest.mark.parametrize(("words", "said"), TABLE, ids=[words for words, _ in TABLE])
def test_a_mistake_is_one_line_that_says_what_to_type(words, said, capsys, monkeypatch):
    """In our own words: those of tyro change with its version."""
    monkeypatch.setattr(arguments, "_flattened", lambda box: "TYRO'S WORDS")
    line = error_of(words, capsys)
    assert said in line
    assert len(line) < 280 and not re.search(r"Traceback|invalid literal|\)\s*\(", line)


def test_a_mistake_that_we_do_not_know_is_one_line_of_tyros(capsys, monkeypatch):
    monkeypatch.setattr("fastimae.mistakes.mistakes", lambda *_: [])
    line = error_of("train --learning_rate 3", capsys)
    assert "--learning_rate" in line and line.endswith("(fastimae-train --help)")


VARIED = ["train", "convert", "bench", "export", "eval fewshot", "eval study", "eval compare"]
"""Commands that together have flags of all types, and positional arguments of all kinds."""


def misspelled(name):
    """Return near misses of a flag's name."""
    middle = len(name) // 2
    return {name[:-1], name[:middle] + name[middle + 1 :], name.replace("_", ""), f"{name}s"}


@pytest.mark.parametrize("program", [f"fastimae-{name}" for name in VARIED])
def test_every_near_miss_of_a_flag_leads_to_it(program):
    known = {flag[2:] for flag in flags_of(OPTIONS[program])}
    elsewhere = other_names._OURS | other_names._ADVICE
    for flag in declared(OPTIONS[program]):
        words = misspelled(flag.name) - known - elsewhere.keys() if len(flag.name) > 4 else ()
        for word in words if not flag.positional else ():
            (error,) = mistakes([f"--{word}"], OPTIONS[program])
            assert f"--{flag.name}" in error.partition(": ")[2], error


@pytest.mark.parametrize("program", [f"fastimae-{name}" for name in VARIED])
def test_every_flag_checks_its_value(program):
    for flag in declared(OPTIONS[program]):
        name = f"--{flag.name}"
        if flag.positional:
            continue
        if arity(flag.hint) == 0:
            assert mistakes([name, "True"], OPTIONS[program])[0].startswith(f"{name} is a switch")
            continue
        assert mistakes([name], OPTIONS[program])[0].startswith(f"{name} needs a value: ")
        if re.search(r"Path|str\b", str(flag.hint)) is None:
            error = mistakes([f"{name}=@"], OPTIONS[program])[0]
            assert re.fullmatch(rf"{name} takes .+, not @", error)


@pytest.mark.parametrize("program", OPTIONS)
def test_a_command_line_without_a_mistake_has_none(program):
    options = OPTIONS[program]
    for line in map(str.strip, documentation(options)):
        if line.startswith(program):
            assert mistakes(shlex.split(line)[len(program.split()) :], options) == []


@pytest.mark.parametrize("value", ["-1", "-1e-3", "-.5", "-"])
def test_a_negative_number_is_a_value_and_no_flag(value):
    assert not any("flag" in each for each in mistakes(["--lr", value], OPTIONS["fastimae-train"]))


def test_at_most_three_mistakes_are_listed():
    argv = ["--a1", "--a2", "--a3", "--a4"]
    assert len(mistakes(argv, OPTIONS["fastimae-train"], recipes=RECIPES)) == 3


def test_names_elsewhere_lead_to_flags_that_exist():
    """So that a flag that is renamed or removed is not recommended any more."""
    known = {name for options in OPTIONS.values() for name in flags_of(options).values()}
    ours = {name for names in other_names._SAME for name in names.split()}
    assert ours | set(re.findall(r"{(\w+)}", " ".join(other_names._INSTEAD))) <= known


@pytest.mark.parametrize("program", [*OPTIONS, "fastimae-eval"])
def test_version_is_all_that_is_printed(program, capsys):
    name, *task = program.removeprefix("fastimae-").split()
    assert COMMANDS[name]([*task, "--version"]) == 0
    assert capsys.readouterr() == (f"fastimae {arguments.__version__}\n", "")
