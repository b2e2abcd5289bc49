"""The table of accuracies: the best of a column is marked, of those that were measured alike."""

import json

import pytest

from fastimae.evaluate.pages.accuracies import accuracies
from fastimae.evaluate.pages.runs import read_run

SETTINGS = {"epochs": 90, "val": "val.beton", "checkpoint": "x.pth", "output_dir": None,
            "num_workers": 4, "random_init": False}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """Return a function: results of each run, by task -> the rows' texts and marks, and notes."""

    def make(*runs):
        records = []
        for number, results in enumerate(runs):
            folder = tmp_path / f"run{number}"
            for task, (numbers, settings) in results.items():
                file = folder / f"eval-{task}" / "results.json"
                file.parent.mkdir(parents=True)
                content = {"task": task, "numbers": numbers, "weights": "w", "settings": settings}
                file.write_text(json.dumps(content))
            (folder / "log.txt").parent.mkdir(exist_ok=True)
            (folder / "log.txt").write_text('{"epoch": 0}\n')
            records.append(read_run(folder))
        found = accuracies(records)
        for row in found.rows:
            row.pop("run")
        marks = [[cell and cell.text + "*" * cell.best for cell in row.values()]
                 for row in found.rows]  # fmt: skip
        reasons = [note for note in found.notes if "there is no checkpoint" not in note]
        return list(found.rows[0]) if found.rows else [], marks, reasons

    return make


def linear(acc1, **changed):
    return {"linear": ({"acc1": acc1}, SETTINGS | changed)}


def test_the_best_of_each_column_is_marked_and_ties_all_are(table):
    knn = {"knn": ({"acc1": 50}, SETTINGS)}
    columns, rows, notes = table(
        linear(60.501) | knn,
        linear(60.499),
        linear(7.1),
        {"mixtureprobe": ({"mean_acc1": 9.5}, SETTINGS)},
        {},
    )
    assert columns == ["Linear", "Nearest neighbours", "Mixture probe"]
    assert rows == [
        ["60.50*", "50.00", None], ["60.50*", None, None], ["7.10", None, None],
        [None, None, "9.50"], [None, None, None],
    ]  # fmt: skip
    assert notes == []


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"epochs": 50}, "not compared: epochs 50, not 90"),
        ({"val": "other.beton"}, "not compared: val other.beton, not val.beton"),
        ({"random_init": True}, "not compared: random_init yes, not no"),
    ],
)
def test_a_number_measured_otherwise_is_not_compared(table, changed, note):
    _, rows, notes = table(linear(90.0, **changed), linear(60.0), linear(50.0))
    assert rows == [["90.00"], ["60.00*"], ["50.00"]]
    assert note in notes


def test_two_numbers_measured_differently_have_no_best(table):
    _, rows, notes = table(linear(90.0, epochs=1), linear(60.0))
    assert rows == [["90.00"], ["60.00"]] and notes == ["not compared: epochs 90, not 1"]


def test_other_images_are_noticed_by_their_number(table):
    more = {"linear": ({"acc1": 70.0, "val_images": 9}, SETTINGS)}
    less = {"linear": ({"acc1": 60.0, "val_images": 8}, SETTINGS)}
    assert table(more, less)[1:] == (
        [["70.00"], ["60.00"]], ["not compared: val_images 8, not 9"]
    )  # fmt: skip


def test_settings_that_change_no_result_may_differ(table):
    _, rows, notes = table(
        linear(60.0), linear(50.0, checkpoint="y.pth", output_dir="o", num_workers=1, device="cpu")
    )
    assert rows == [["60.00*"], ["50.00"]] and notes == []


def test_the_same_file_may_be_named_differently(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, rows, notes = table(linear(60.0), linear(50.0, val=str(tmp_path / "val.beton")))
    assert rows == [["60.00*"], ["50.00"]] and notes == []


def test_numbers_without_settings_are_not_compared(table):
    _, rows, notes = table({"knn": ({"acc1": 60.0}, {})}, {"knn": ({"acc1": 50.0}, {})})
    assert rows == [["60.00"], ["50.00"]]
    assert len(notes) == 1 and "not recorded" in notes[0]


def test_without_accuracies_there_is_no_table(table):
    assert table({}, {"weights": ({"values": 3}, SETTINGS)}) == ([], [], [])
