"""compare: of a result of several classifiers, each run shows the numbers of its own."""

import json

import pytest
import torch
from tiny import save_run, tiny_model

from fastimae.evaluate.origin import BEGUN, origin_of
from fastimae.evaluate.pages.accuracies import accuracies
from fastimae.evaluate.pages.by_classifier import by_classifier
from fastimae.evaluate.pages.comparison import tables_of
from fastimae.evaluate.pages.runs import read_run

LINEAR, TUNED = "a linear probe", "a fine-tuned model"


@pytest.fixture
def runs(tmp_path):
    """Folders and origins of three pre-trainings, called a, b and c."""
    origins = {}
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        path = save_run(tmp_path / name, tiny_model(), run=name)
        model = tiny_model()
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        origins[name] = origin_of(path, model)
    return tmp_path, origins


def save(runs, place, *tested, sets=("v2=v2",)):
    """Save a result of robustness in a run's folder. tested: (run, its task, accuracy) each."""
    root, origins = runs
    classifiers, table = [], []
    for run, task, acc1 in tested:
        origin = dict(origins[run])
        if task == "finetune":
            origin = {"weights": f"{run} tuned", "run": "another", "epoch": 3, "step": 0}
        name, numbers = f"{run}/eval-{task}", {"v2_acc1": acc1}
        classifiers.append({
            "classifier": name, "file": str(root / name / "checkpoint-best.pth"),
            "kind": LINEAR if task == "linear" else TUNED, "numbers": numbers, **origin,
            BEGUN: origins[run]["weights"],
        })  # fmt: skip
        table.append({"classifier": name, "set": "v2", "acc1": acc1, "acc1_own": acc1 + 0.5})
    first = {key: value for key, value in classifiers[0].items() if key in origins["a"]}
    numbers = {**classifiers[0]["numbers"], "summary": [], "table": table}
    content = {
        "task": "robustness", "numbers": numbers, "settings": {"sets": list(sets)}, **first,
        BEGUN: classifiers[0][BEGUN], "classifiers": classifiers, "pictures": [],
    }  # fmt: skip
    folder = root / place / "eval-robustness"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(content))


def compared(runs, names="abc"):
    """Return the rows of accuracies, the best with a star, and the tables."""
    records = by_classifier([read_run(runs[0] / name) for name in names])
    found = accuracies(records)
    rows = [
        {title.removeprefix("Robustness"): cell.text + "*" * cell.best
         for title, cell in row.items() if title != "run" and cell}
        for row in found.rows
    ]  # fmt: skip
    return rows, tables_of(records), found.notes


def test_each_run_has_the_numbers_of_its_own_classifier(runs):
    save(runs, "a", ("a", "linear", 50.0), ("b", "linear", 60.0), ("c", "finetune", 70.0))
    rows, tables, notes = compared(runs)
    assert rows == [{": v2": "50.00"}, {": v2": "60.00*"}, {" (eval-finetune): v2": "70.00"}]
    assert not notes and not tables["notes"]
    assert {"": "robustness acc1_own (v2)", "a": 50.5, "b": 60.5, "c": None} in tables["details"]
    assert compared(runs, "c") == ([], tables_of([read_run(runs[0] / "c")]), [])


def test_several_classifiers_of_a_run_have_columns_of_their_own(runs):
    tested = [
        (run, task, acc1) for task, acc1 in (("linear", 10), ("finetune", 20)) for run in "ab"
    ]
    save(runs, "a", *((run, task, acc1 + (run == "b")) for run, task, acc1 in tested))
    rows, *_ = compared(runs, "ab")
    assert rows == [
        {": v2": "10.00", " (eval-finetune): v2": "20.00"},
        {": v2": "11.00*", " (eval-finetune): v2": "21.00*"},
    ]


def test_a_runs_own_folder_counts_and_kinds_are_told_apart(runs):
    save(runs, "a", ("a", "linear", 50.0), ("b", "linear", 60.0))
    save(runs, "b", ("b", "linear", 61.0))
    save(runs, "c", ("c", "finetune", 70.0))
    rows, _, notes = compared(runs)
    assert rows == [{": v2": "50.00"}, {": v2": "61.00*"}, {": v2": "70.00"}]
    assert notes == [f"not compared: classifier {TUNED}, not {LINEAR}"]


def test_a_result_in_the_folder_of_another_run_reaches_its_own(runs):
    save(runs, "c", ("a", "linear", 50.0), ("c", "linear", 65.0))
    rows, *_ = compared(runs)
    assert rows == [{": v2": "50.00"}, {}, {": v2": "65.00*"}]
