"""A flag that is given twice is an error in every command, however it is spelled."""

import re

import pytest
import tyro
from commands import OPTIONS

from benchmarks.harness import usual_parser
from fastimae import cli
from fastimae.config_file import read_yaml
from fastimae.flags import flags_of, repeated
from fastimae.settings import ConfigError


@pytest.mark.parametrize("program", OPTIONS)
def test_we_know_all_flags_of_a_command(program, capsys, monkeypatch):
    """The help that tyro would print is the reference."""
    monkeypatch.setenv("COLUMNS", "80")  # in one column
    options = OPTIONS[program]
    with pytest.raises(SystemExit):
        tyro.cli(
            options,
            args=["--help"],
            prog=program,
            config=(tyro.conf.OmitArgPrefixes,),
            use_underscores=True,
        )
    text = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    # Descriptions are indented, with or without a frame.
    lines = re.findall(r"^[│ ] {0,2}(--.*?)(?:  |│|$)", text, re.MULTILINE)
    said = {flag for line in lines for flag in re.findall(r"--\w+", line)}
    names = ("src", "out", "data", "runs", "run_folder", "study", "train_flags")
    positional = {f"--{name}" for name in names}
    known = set(flags_of(options))
    assert said <= known and "--debug" in said
    assert known - said <= positional | {"--checkpoint"}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train --batch_size 2 --batch_size 4", "--batch_size is given twice"),
        ("train --batch-size 2 --batch_size=4", "--batch_size is given twice"),
        ("train --hflip --no_hflip", "--hflip and --no_hflip change the same setting"),
        ("train --no-hflip --no_hflip", "--no_hflip is given twice"),
        ("train --same_prob 0.5 --same-class-ratio 0.1", "and --same_class_ratio change"),
        ("train --input_size 32 48 --input_size 32", "--input_size is given twice"),
        ("train --recipe imae_cifar10 --recipe imae_cifar10", "--recipe is given twice"),
        ("convert a b --mode raw --mode jpg", "--mode is given twice"),
        ("doctor --no-debug --no_debug", "--no_debug is given twice"),
        ("bench --batch_size 2 --batch_size 4", "--batch_size is given twice"),
        ("evaluate knn --checkpoint a --k 1 --k 2", "--k is given twice"),
        ("evaluate finetune --finetune a --checkpoint b", "--finetune and --checkpoint change"),
        ("export a b --to mae --to timm", "--to is given twice"),
        ("import_ a b --force --force", "--force is given twice"),
    ],
)
def test_no_command_takes_the_last_of_two(command, said, capsys):
    program, *argv = command.split()
    if program == "evaluate":
        for library in ("timm", "sklearn"):
            pytest.importorskip(library)
    assert getattr(cli, program)(argv) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error and "keep one" in error


@pytest.mark.parametrize(
    "argv",
    [
        ["--b", "1", "--c=1", "-1", "-1"],
        ["--b", "1", "--", "--b", "2"],
        ["--text=--b 1", "--b", "1"],
        ["--text", "--b 1 --b 1", "--b", "1"],
    ],
    ids=["once", "behind", "in-a-value", "in-words"],
)
def test_what_is_no_flag_may_come_twice(argv):
    assert repeated(argv, {"--b": "b", "--c": "c", "--text": "text"}) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [("epochs: 1\nblr: 0.1\nepochs: 2\n", "epochs"), ("no-x: 1\nno_x: 1\n", "no_x")],
    ids=["same", "hyphen"],
)
def test_nor_does_a_config_file(tmp_path, text, name):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"--config .*: {name} is given twice"):
        read_yaml(tmp_path / "a.yaml", "--config a.yaml")


@pytest.mark.parametrize("argv", ["--out a --out b", "--out=a --out=b"], ids=["apart", "joined"])
def test_nor_do_benchmarks(argv, capsys):
    parser = usual_parser("x", None)
    with pytest.raises(SystemExit):
        parser.parse_args(argv.split())
    assert "--out is given twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--", "--num_workers", "3"], "--num_workers after --"),
        (["--", "--same-prob=1"], "--same_class_ratio after --"),
        (["--set", "evaluations.linear.seed=3"], "evaluations.linear.seed"),
        (["--set", "models.baseline.output-dir=x"], "models.baseline.output_dir"),
    ],
)
def test_a_study_says_what_it_sets_itself(tmp_path, flags, said, capsys):
    pytest.importorskip("sklearn")
    argv = [
        "study",
        "same_class_ratio",
        "--ffcv",
        "a",
        "--val",
        "b",
        "--output_dir",
        str(tmp_path),
        *flags,
    ]
    assert cli.evaluate(argv) == 2
    assert f"{said}: the study sets that itself" in capsys.readouterr().err
