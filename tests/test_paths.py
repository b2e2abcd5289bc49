"""`~` and variables in paths: every flag of every command, YAML files, benchmarks."""

import dataclasses
import os
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
from commands import OPTIONS
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness import usual_parser
from fastimae import cli
from fastimae.arguments import parse_training
from fastimae.config import TrainConfig, flatten
from fastimae.flags import OnceParser
from fastimae.loaders.convert.options import ConvertOptions
from fastimae.paths import expand_paths, expanded, names_files
from fastimae.settings import ConfigError

NO_PATHS = {
    *("device", "recipe", "objective", "model", "teach_model", "dist_url", "aa"),
    *("label_field", "image_field", "class_names", "own_classes", "wandb"),
    *("train_flags", "launcher"),  # words of commands
    *("set", "only", "resolution_schedule"),
}
"""Text settings in which nothing is expanded."""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Be in a folder of its own, with a home folder and the variable DATA."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", "/some/data")
    monkeypatch.delenv("UNSET", raising=False)
    return tmp_path / "home"


def settings_of(options):
    """Yield (name, type) of all settings of a command."""
    hints = get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings_of(hints[field.name])
        else:
            yield field.name, hints[field.name]


def parts_of(hint):
    return {hint, get_origin(hint)}.union(*map(parts_of, get_args(hint)))


@pytest.mark.parametrize("program", OPTIONS)
def test_every_setting_is_known_to_be_a_path_or_not(program):
    """A new text setting that names files is `FileNames`; any other is listed here."""
    for name, hint in settings_of(OPTIONS[program]):
        parts = parts_of(hint)
        if Path in parts:
            assert names_files(hint), name
        elif str in parts and not names_files(hint):
            assert name in NO_PATHS, f"--{name}: FileNames, or no path?"


def test_all_kinds_of_settings_are_expanded(home):
    config = TrainConfig()
    config.data.ffcv = Path("~/a.beton")
    config.data.dali = "${DATA}/s-{000..146}.tar"
    config.data.label_field = "$DATA"
    config.data.dataset = "$DATA/mine.py:train"
    config.run.resume = "$DATA/checkpoint-9.pth"
    found = flatten(expand_paths(config))
    assert found["ffcv"] == f"{home}/a.beton"
    assert found["dali"] == "/some/data/s-{000..146}.tar"
    assert found["dataset"] == "/some/data/mine.py:train"
    assert found["resume"] == "/some/data/checkpoint-9.pth"
    assert found["label_field"] == "$DATA"
    changed = {name for name, value in flatten(config).items() if found[name] != value}
    assert changed == {"ffcv", "dali", "dataset", "resume"}
    assert expand_paths(ConvertOptions(src="~/b", out=None)).src == f"{home}/b"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("train --ffcv $UNSET/a.beton", "--ffcv $UNSET/a.beton: the variable UNSET is not set"),
        ("train --resume ${UNSET}/a.pth", "--resume ${UNSET}/a.pth: the variable UNSET"),
        ("train --config $UNSET/a.yaml", "--config $UNSET/a.yaml: the variable UNSET"),
        ("train --teacher ~nobody-here/a", "--teacher ~nobody-here/a: there is no home folder of"),
        ("convert $UNSET/a b", "SRC $UNSET/a: the variable UNSET"),
        ("convert a $UNSET", "OUT $UNSET: the variable UNSET"),
        ("bench $UNSET", "F.beton $UNSET: the variable UNSET"),
        ("export $UNSET/a b --to mae", "CHECKPOINT $UNSET/a: the variable UNSET"),
        ("import_ a $UNSET/b", "OUT $UNSET/b: the variable UNSET"),
        ("evaluate knn --checkpoint $UNSET", "--checkpoint $UNSET: the variable UNSET"),
        ("evaluate compare a $UNSET", "RUN $UNSET: the variable UNSET"),
        ("evaluate report --run $UNSET", "--run $UNSET: the variable UNSET"),
    ],
)
def test_a_variable_that_is_not_set_is_an_error_that_names_the_flag(command, said, capsys):
    program, *argv = command.split()
    assert getattr(cli, program)(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_paths_in_yaml_are_expanded_and_relative_to_the_working_directory(home, capsys):
    home.mkdir()
    (home / "run.yaml").write_text(
        "output_dir: ~/runs\nobjective: imae\nteacher: $DATA/mae.pth\ninit: near.pth\n"
    )
    assert parse_training("fastimae-train", ["--config=~/run.yaml", "--print_config"]) is None
    printed = capsys.readouterr().out
    assert f"output_dir: {home}/runs\n" in printed and "teacher: /some/data/mae.pth\n" in printed
    assert "init: near.pth\n" in printed
    (home / "run.yaml").write_text("ffcv: $UNSET/a.beton\n")
    with pytest.raises(ConfigError, match=r"--ffcv \$UNSET/a.beton: the variable UNSET is not set"):
        parse_training("fastimae-train", ["--config", "~/run.yaml"])


def test_parsers_of_benchmarks_expand_too(home, capsys):
    parser = OnceParser()
    parser.add_argument("--data", type=Path, nargs="*")
    assert parser.parse_args(["--data", "~/a", "$DATA"]).data == [home / "a", Path("/some/data")]
    out = usual_parser("bench", None).parse_args(["--out", "~/new/report.json"]).out
    assert out == home / "new/report.json" and out.parent.is_dir()
    with pytest.raises(SystemExit):
        parser.parse_args(["--data", "$UNSET"])
    assert "--data: $UNSET: the variable UNSET is not set" in capsys.readouterr().err


def test_names_that_exist_as_written_stay(tmp_path):
    (tmp_path / "a$DATA").mkdir()
    (tmp_path / "~back.beton").touch()
    for name in ("a$DATA", "a$DATA/new.beton", "~back.beton", "cost$", "$5", "$(date)", "a~b"):
        assert expanded(name) == name
    assert expanded("b$DATA") == "b/some/data"


def test_an_empty_variable_does_not_lead_to_the_root(monkeypatch):
    monkeypatch.setenv("DATA", "")
    with pytest.raises(ValueError, match="DATA is not set"):
        expanded("$DATA/x")


@given(st.text(st.characters(exclude_characters="\0$~", exclude_categories=["Cs"]), max_size=30))
def test_a_path_with_nothing_to_expand_stays(text):
    assert expanded(text) == text


@given(st.lists(st.sampled_from(["~", "/", "$DATA", "${DATA}", "x", ".", "é"]), max_size=8))
def test_the_result_is_that_of_the_standard_library(parts):
    text = "".join(parts)
    wanted = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111
    if wanted.startswith("~") or "$DATAx" in text or "$DATAé" in text:
        with pytest.raises(ValueError):
            expanded(text)
    else:
        assert expanded(text) == wanted
