"""--help: two screens that teach, an example that runs, the other flags one flag away, no torch."""

import itertools
import json
import re
import shlex
import subprocess
import sys

import pytest
from commands import COMMANDS, OPTIONS

from fastimae.arguments import parse, parse_training
from fastimae.declarations import documentation
from fastimae.evaluate.command import options_of
from fastimae.evaluate.options import finetune_recipes, linear
from fastimae.flags import flags_of
from fastimae.help import help_asked
from fastimae.recipes import RECIPES

TWO_SCREENS = 100
"""Lines, of 100 columns."""


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def run(words, capsys):
    """Run a command and return what it prints."""
    program, *argv = words.split()
    with pytest.raises(SystemExit) as stop:
        COMMANDS[program.removeprefix("fastimae-")](argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags_in(text):
    """Return the flags that have their own line."""
    spelled = re.findall(r"^  (--\w+(?:, --\w+)*)", text, re.MULTILINE)
    return {flag for flags in spelled for flag in flags.split(", ")}


@pytest.mark.parametrize("program", OPTIONS)
def test_help_takes_two_screens_and_all_of_it_is_a_flag_away(program, capsys):
    short, full = run(f"{program} --help", capsys), run(f"{program} --help-all", capsys)
    assert len(short.splitlines()) <= TWO_SCREENS
    assert max(map(len, full.splitlines())) <= 100
    known = {flag for flag in flags_of(OPTIONS[program]) if not flag.startswith("--no_")}
    positional = ("src", "out", "data", "runs", "run_folder", "study", "train_flags", "checkpoint")
    assert flags_in(short) < flags_in(full)
    assert known - {f"--{name}" for name in positional} <= flags_in(full)
    hidden = re.search(r"^(\d+) more flags?, .*: (.*)$", short, re.MULTILINE)
    names = {flags_of(OPTIONS[program])[flag] for flag in flags_in(full) - flags_in(short)}
    assert int(hidden[1]) == len(names) and hidden[2] == f"{program} --help-all"
    assert "more flag" not in full


@pytest.mark.parametrize("program", OPTIONS)
def test_no_flag_takes_more_than_two_lines_of_help(program, capsys):
    """Three where a long list of choices comes before it."""
    lines = run(f"{program} --help-all", capsys).splitlines()
    rows = [line for line in lines if re.match(r" {2}\S| {26}\S", line)]
    starts = [number for number, row in enumerate(rows) if row[2] != " "]
    for start, end in itertools.pairwise([*starts, len(rows)]):
        assert end - start <= 2 + (rows[start][24:26] != "  "), rows[start:end]


@pytest.mark.parametrize("program", OPTIONS)
def test_help_has_an_example_that_is_understood(program, capsys):
    text = run(f"{program} --help", capsys)
    examples = [line.strip() for line in text.splitlines() if line.startswith(f"    {program}")]
    assert examples
    for example in examples:
        argv = shlex.split(example)[len(program.split()) :]
        if program == "fastimae-train":
            assert parse_training(program, [*argv, "--print_config"]) is None
        elif program.startswith("fastimae-eval"):
            options_of(program.split()[1], argv)
        else:
            parse(program, OPTIONS[program], argv)


@pytest.mark.parametrize(
    ("program", "recipes"),
    [
        ("fastimae-train", RECIPES),
        ("fastimae-eval finetune", finetune_recipes.RECIPES),
        ("fastimae-eval msem", finetune_recipes.OF_IMAE),
        ("fastimae-eval linear", linear.RECIPES),
    ],
)
def test_help_names_the_recipes_and_all_of_it_has_a_line_on_each(program, recipes, capsys):
    short, full = (" ".join(run(f"{program} {h}", capsys).split()) for h in ("-h", "--help-all"))
    assert f"a line on each: {', '.join(recipes)}." in short
    for name, recipe in recipes.items():
        assert f"{name} {documentation(recipe)[0]}" in full


def test_help_shows_the_defaults_of_a_recipe(capsys):
    assert "--epochs INT            Passes over the data. (default: 12)" in run(
        "fastimae-train --recipe demo --help", capsys
    )


WITHOUT_TORCH = ["train", "convert", "bench", "export", "import", "eval knn"]
LIGHT = """
import contextlib, io, json, sys
from fastimae import cli
heavy = ("torch", "torchvision", "triton", "timm", "matplotlib", "scipy", "sklearn")
for function, *argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = getattr(cli, function)(argv)
        except SystemExit as stop:
            status = stop.code
    imported = [name for name in heavy if name in sys.modules]
    print(json.dumps([status, out.getvalue(), err.getvalue().splitlines(), imported]))
"""


@pytest.mark.parametrize("flags", [["--no_such_flag"], ["--help", "--version"]], ids=" ".join)
def test_help_version_and_a_typo_do_not_import_torch(flags):
    """Which takes seconds; so do the others that only a run needs."""
    words = [f"{program} {flag}".split() for program in WITHOUT_TORCH for flag in flags]
    calls = [[COMMANDS[command].__name__, *argv] for command, *argv in words]
    command = [sys.executable, "-c", LIGHT, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(calls), done.stderr
    for call, (status, out, errors, imported) in zip(calls, results, strict=True):
        typo = call[-1] == "--no_such_flag"
        assert (status, imported) == (2 if typo else 0, []), call
        assert bool(out) != typo and len(errors) == typo, "a typo is one line"


@pytest.mark.parametrize(
    ("argv", "flag"),
    [
        (["--lr", "1", "--help"], "--help"),
        (["-h"], "-h"),
        (["--help-all"], "--help_all"),
        (["--help_all"], "--help_all"),
        (["--", "--help"], None),
        (["--lr", "1"], None),
    ],
)
def test_help_is_asked_for_before_a_double_dash(argv, flag):
    assert help_asked(argv) == flag


def test_what_users_declare_is_shown(tmp_path, monkeypatch, capsys):
    (tmp_path / "theirs.py").write_text(
        "import dataclasses\n"
        "from fastimae.objectives import MAE\n"
        "from fastimae.objectives.settings import MaskSettings\n"
        "from fastimae.settings import Expert\n\n"
        "@dataclasses.dataclass(kw_only=True)\n"
        "class TheirSettings(MaskSettings):\n"
        "    names: tuple[str, ...] | list[int] = ()\n"
        '    """What theirs are called."""\n'
        "    rare: Expert[float] = 0.5\n"
        "    bare: int = 1\n\n"
        "class Theirs(MAE):\n"
        "    Settings = TheirSettings\n"
    )
    monkeypatch.chdir(tmp_path)
    text = run("fastimae-train --objective theirs:Theirs --help", capsys)
    assert "--names TEXT ...|INT ...  What theirs are called." in text
    assert "--bare INT              (default: 1)" in text and "--rare" not in text
    assert "--rare FLOAT" in run("fastimae-train --objective theirs:Theirs --help-all", capsys)
