"""A study's file: what is wrong with it is said with its line, before anything runs."""

import re
from pathlib import Path

import pytest

from fastimae.evaluate.studies.file import Column, read_study, unknown_names
from fastimae.evaluate.studies.table import number_of
from fastimae.settings import ConfigError

GOOD = """\
about: of mixtures
train: {epochs: 3, batch-size: 8}
models:
  mae: {objective: mae}
  imae:
    objective: imae
    teacher: mae
    grid: {same_class_ratio: [0, 0.5], seed_of_mine: [1, 2]}
  theirs: {checkpoint: there.pth}
evaluations:
  linear:
  five: {task: knn, k: [5], models: [imae, theirs]}
columns:
  top 1: linear.acc1
  best: {number: five.table.acc1, where: {k: 5}}
plot: {x: same_class_ratio, log: true}
paper:
  conditions: >-
    As they
    say.
  numbers:
    mae: {top 1: 50.5}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Function (text, *changes) that reads a text as few.yaml."""
    monkeypatch.chdir(tmp_path)

    def read_text(text, *changes):
        (tmp_path / "few.yaml").write_text(text)
        return read_study(Path("few.yaml"), changes)

    return read_text


def test_a_file_is_read(read):
    study = read(GOOD)
    assert study.about == "of mixtures" and study.conditions == "As they say."
    assert {name: flag.value for name, flag in study.train.items()} == {
        "epochs": 3,
        "batch_size": 8,
    }
    assert list(study.models) == ["mae", "imae", "theirs"]
    grid = study.models["imae"].grid.items()
    values = {key: [flag.value for flag in values] for key, values in grid}
    assert values == {"same_class_ratio": [0, 0.5], "seed_of_mine": [1, 2]}
    assert study.models["imae"].flags["teacher"] == ("mae", "few.yaml, line 7")
    assert str(study.models["theirs"].checkpoint) == "there.pth"
    five = study.evaluations["five"]
    assert (five.task, five.models) == ("knn", ("imae", "theirs"))
    assert list(five.flags) == ["k"] and study.evaluations["linear"].task == "linear"
    assert study.columns == [
        Column(name="top 1", evaluation="linear", keys=("acc1",)),
        Column(name="best", evaluation="five", keys=("table", "acc1"), where={"k": 5}),
    ]
    assert (study.plot.x, study.plot.log) == ("same_class_ratio", True)
    assert study.paper == {"mae": {"top 1": 50.5}}


def test_without_columns_they_are_the_accuracies(read):
    study = read("models: {a: {checkpoint: x}}\nevaluations: {knn: , five: {task: linear}}\n")
    assert [(column.name, column.evaluation, column.keys) for column in study.columns] == [
        ("knn", "knn", ("acc1",)),
        ("five", "five", ("acc1",)),
    ]


def test_names_of_evaluations_may_have_points(read):
    study = read(
        "models: {a: {checkpoint: x}}\n"
        "evaluations: {few: {task: linear}, few-0.1: {task: linear, label_fraction: 0.1}}\n"
        "columns: {all: few.acc1, some: few-0.1.table.acc1}\n"
    )
    assert [(column.evaluation, column.keys) for column in study.columns] == [
        ("few", ("acc1",)),
        ("few-0.1", ("table", "acc1")),
    ]


WRONG = r"""
{models: {a: }}                            | a study needs evaluations
{evaluations: {knn: }}                     | a study needs models
{modls: {a: }}                             | line 1: modls: .* did you mean models?
{a: 1}                                     | line 1: a: there is no such setting: it has about
{models: [a]}                              | line 1: models: write its settings below it
{models: {a b: }}                          | line 1: models.a b: a name has letters
{models: {a/b: }}                          | models.a/b: a name has letters
{about: 3}                                 | about: this must be a text
{train: {epochs: {a: 1}}}                  | train.epochs: a flag takes a value or a list of values
{train: {seed: 1}}                         | train.seed: the study sets that itself
{models: {a: {output_dir: x}}}             | models.a.output_dir: the study sets that itself
{models: {a: {grid: }, b: {grid: {}}}}     | models.b.grid: a grid needs a flag
{models: {a: {grid: {epochs: []}}}}        | models.a.grid.epochs: a grid takes lists
{models: {a: {grid: {epochs: 3}}}}         | models.a.grid.epochs: a grid takes lists
{models: {a: {grid: {resume: [x]}}}}       | models.a.grid.resume: the study sets that itself
{models: {a: {epochs: 1, grid: {epochs: [3]}}}} | models.a.epochs: the grid has it, too
{models: {a: {epochs: 1, checkpoint: x}}}  | models.a: its flags have no effect with a checkpoint
{models: {a: {checkpoint: x, grid: {epochs: [1]}}}} | no effect with a checkpoint
{evaluations: {lineer: }}                  | evaluations.lineer: .* did you mean linear?
{evaluations: {a: {task: study}}}          | evaluations.a: there is no task study: its task
{evaluations: {a: {task: compare}}}        | there is no task compare
{evaluations: {features: {task: knn}}}     | evaluations.features: choose another name
{evaluations: {knn: {checkpoint: x}}}      | evaluations.knn.checkpoint: the study sets that itself
{evaluations: {cluster: {output: x.npz}}}  | cluster.output: the study sets that itself
{evaluations: {knn: {models: {a: 1}}}}     | evaluations.knn.models: this must be a list of texts
{columns: {a: acc1}}                       | columns.a: this must be EVALUATION.NUMBER
{columns: {a: 3.5}}                        | columns.a: this must be EVALUATION.NUMBER
{columns: {a: liner.acc1}, evaluations: {linear: }} | columns.a: there is no evaluation liner: did
{columns: {a: {numbr: x}}}                 | columns.a.numbr: .* did you mean number?
{plot: {y: x}}                             | line 1: there is no setting called y
{plot: {log: 3}}                           | line 1: log takes true or false, not 3
{paper: {numbers: {a: {b: high}}}}         | paper.numbers.a.b: this must be a number
{paper: {numbers: {a: {b: 1}}}}            | paper: say in conditions where the numbers are from
{paper: {number: }}                        | paper.number: .* did you mean numbers?
{models: {a: 1}}                           | models.a: write its settings below it
{models: {1: , '1': }}                     | a name is given twice
{models: {a: , a: }}                       | line 1: a is given twice
""".strip().splitlines()


@pytest.mark.parametrize("line", WRONG)
def test_what_is_wrong_is_said_with_its_place(read, line):
    text, said = re.split(r" +\| ", line)
    with pytest.raises(ConfigError, match=rf"^few.yaml.*{said}") as error:
        read(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("x: same_class_ratio", "x: same_class_rate", "line 16: plot.x: .* did you mean same_cl"),
        ("x: same_class_ratio, ", "", "line 16: plot.log: it has no effect without x"),
        ("  linear:", "  imae: {task: linear}", "there is no evaluation linear"),
        ("  top 1:", "  same_class_ratio:", "columns.same_class_ratio: another column has this"),
        (
            "  five:",
            "  imae: {task: linear}\n  five:",
            "line 12: evaluations.imae: a model has this",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other(read, old, new, said):
    with pytest.raises(ConfigError, match=rf"^few.yaml, {said}|{said}"):
        read(GOOD.replace(old, new))


def test_changes_of_the_command_line(read):
    study = read(
        GOOD, "train.batch-size=16", "models.imae.grid.same_class_ratio=[0, 1]",
        "evaluations.linear.epochs=5", "models.mae={checkpoint: mae.pth}", "about=another one",
        "plot=", "paper=null",
    )  # fmt: skip
    assert study.train["batch_size"] == (16, "--set train.batch-size") and len(study.train) == 2
    ratios = study.models["imae"].grid["same_class_ratio"]
    assert [flag.value for flag in ratios] == [0, 1]
    assert study.evaluations["linear"].flags["epochs"].place == "--set evaluations.linear.epochs"
    assert str(study.models["mae"].checkpoint) == "mae.pth"
    assert study.plot.x is None and study.paper == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.epochs", "write KEY.KEY=VALUE"),
        ("=3", "write KEY.KEY=VALUE"),
        ("train..epochs=3", "write KEY.KEY=VALUE"),
        ("about.of=3", "--set about.of: about has no parts"),
        ("train.epochs=[", "--set train.epochs=[:"),
        ("models.imae.grid=3", "--set models.imae.grid: models.imae.grid: write its settings"),
        ("trian.epochs=3", "--set trian: trian|there is no such setting: did you mean train"),
        ("evaluations.lin.epochs=3", "there is no task lin: did you mean linear"),
    ],
)
def test_a_change_that_cannot_be_made(read, change, said):
    with pytest.raises(ConfigError, match=said.replace("[", r"\[")):
        read(GOOD, change)


def test_what_only_the_paper_has(read):
    study = read(GOOD, "paper.numbers={mae: {top 1: 1, top 5: 2}, gone: {top 1: 3}}")
    assert unknown_names(study, ["mae", "imae-0"]) == ["gone", "mae.top 5"]


@pytest.mark.parametrize(
    ("keys", "where", "wanted"),
    [
        (("acc1",), {}, 5.5),
        (("table", "one"), {"k": 1}, 10),
        (("table", "one"), {"k": 2, "of": "b"}, 30),
        (("table", "one"), {"k": 2}, None),
        (("table", "one"), {}, None),
        (("single", "one"), {}, 40),
        (("inner", "deep"), {}, 7),
        (("text",), {}, None),
        (("gone", "one"), {}, None),
        (("acc1", "one"), {}, None),
        (("truth",), {}, None),
    ],
)
def test_numbers_of_results(keys, where, wanted):
    numbers = {
        "acc1": 5.5, "text": "5.5", "inner": {"deep": 7}, "single": [{"one": 40}], "truth": True,
        "table": [{"k": 1, "one": 10}, {"k": 2, "of": "a", "one": 20},
                  {"k": 2, "of": "b", "one": 30}],
    }  # fmt: skip
    column = Column(name="x", evaluation="y", keys=keys, where=where)
    assert number_of(numbers, column) == wanted
