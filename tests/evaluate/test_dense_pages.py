"""Pages of tasks with other scores than one top-1 accuracy: segment, detect, robustness."""

import json

import pytest
from html_page import Page

from fastimae.cli import evaluate
from fastimae.evaluate.pages.accuracies import accuracies
from fastimae.evaluate.pages.curves import curves, curves_over_each_other
from fastimae.evaluate.pages.runs import read_run
from fastimae.evaluate.tasks.report import evaluation_section

SEGMENT = {"mIoU": 48.125, "aAcc": 83.5, "IoU": {"wall": 61.5, "sky": None}, "absent": ["sky"]}
DETECT = {"AP": 39.7, "AP50": 61.0, "AP_mask": 36.4, "by_class": [{"class": "cat", "AP": 39.7}]}
ROBUSTNESS = {"v2_acc1": 55.5, "mine_acc1": 9.25, "table": [{"set": "v2", "acc1": 55.5}]}
SHAPE = {"shape_accuracy": 21.0, "texture_accuracy": 60.0, "shape_bias": 0.25}
TASKS = {"segment": SEGMENT, "detect": DETECT, "robustness": ROBUSTNESS, "shapebias": SHAPE}
SETTINGS = {"robustness": {"classifier": ["a/checkpoint-best.pth"], "sets": ["v2=imagenetv2"]}}
LOG = [
    {"epoch": epoch, "train_loss": 1.0, "test_mIoU": 40.0 + epoch, "test_aAcc": 80.0,
     "test_AP": 30.0 + epoch, "test_AP_mask": 20.0, "test_AP50": 50.0}
    for epoch in (0, 2)
]  # fmt: skip
LOG.insert(1, {"epoch": 1, "train_loss": 1.0})
"""Of --val_freq 2: the second epoch was not tested."""


def save_run(folder, tasks=TASKS, **settings):
    (folder).mkdir(parents=True)
    (folder / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0}\n')
    for task, numbers in tasks.items():
        place = folder / f"eval-{task}"
        place.mkdir()
        of_task = {**SETTINGS.get(task, {"epochs": 2}), **settings}
        content = {"task": task, "numbers": numbers, "weights": "w", "settings": of_task}
        (place / "results.json").write_text(json.dumps(content))
        if task in ("segment", "detect"):
            (place / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in LOG))
    return folder


def test_each_score_has_a_column_and_competes_with_its_like(tmp_path):
    better = {"detect": {**DETECT, "AP": 41.0, "AP_mask": 35.0}, "robustness": {"v2_acc1": 57.0}}
    first = save_run(tmp_path / "first")
    other = save_run(tmp_path / "other", better, classifier=["b/checkpoint-best.pth"])
    table = accuracies([read_run(first), read_run(other)])
    texts = [
        {name: cell and cell.text + "*" * cell.best for name, cell in row.items() if name != "run"}
        for row in table.rows
    ]
    shape = "Shape bias: shape accuracy"
    assert texts == [
        {"Robustness: v2": "55.50", "Robustness: mine": "9.25", shape: "21.00",
         "Segmentation: mIoU": "48.12", "Detection: box AP": "39.70",
         "Detection: mask AP": "36.40*"},
        {"Robustness: v2": "57.00*", "Robustness: mine": None, shape: None,
         "Segmentation: mIoU": None, "Detection: box AP": "41.00*", "Detection: mask AP": "35.00"},
    ]  # fmt: skip


def test_a_log_of_overlap_and_precision_has_charts_of_their_own():
    charts = {chart.title: [line.name for line in chart.lines] for chart in curves(LOG)}
    assert charts == {
        "Accuracy": ["test aAcc"],
        "Average precision": ["test AP", "test AP mask", "test AP50"],
        "Loss": ["loss"],
        "Mean IoU": ["test mIoU"],
    }
    (overlap,) = (chart for chart in curves(LOG) if chart.title == "Mean IoU")
    assert overlap.lines[0].points == [(1.0, 40.0), (3.0, 42.0)]
    running = {chart.title: len(chart.lines[0].points) for chart in curves(LOG[:2])}
    assert running == {"Accuracy": 1, "Average precision": 1, "Loss": 2, "Mean IoU": 1}
    assert list(curves_over_each_other({"a": LOG[:2]})) == ["train_loss"]
    over = curves_over_each_other({"a": LOG, "b": LOG})
    assert {name: chart.title for name, chart in over.items()} == {
        "test_aAcc": "Accuracy of pixels", "test_AP": "AP of boxes", "test_AP50": "Test AP50",
        "test_AP_mask": "AP of masks", "test_mIoU": "Mean IoU", "train_loss": "Training loss",
    }  # fmt: skip


def test_each_number_has_a_card_of_its_own(tmp_path):
    """The best epoch's accuracy does not replace the last one's, nor one set's another's."""
    tuned = {"acc1": 80.0, "acc5": 95.0, "best_acc1": 81.0, "best_epoch": 3}
    masks = {"AP50": 61.0, "APs_mask": 9.0, "best_AP": 40.0}
    run = save_run(tmp_path / "run", {"finetune": tuned, "detect": masks, "robustness": ROBUSTNESS})
    cards = {item.task: evaluation_section(item).cards for item in read_run(run).evaluations}
    assert cards == {
        "finetune": {"top-1 (%)": 80.0, "top-5 (%)": 95.0, "best top-1 (%)": 81.0, "best epoch": 3},
        "detect": {"box AP50 (%)": 61.0, "mask APs (%)": 9.0, "best box AP (%)": 40.0},
        "robustness": {"v2: top-1 (%)": 55.5, "mine: top-1 (%)": 9.25},
    }


def test_only_numbers_by_class_are_a_table_of_classes(tmp_path):
    by_k = {"by_k": {"10": {"acc1": 50.0, "acc5": 90.0}}}
    run = save_run(tmp_path / "run", {"segment": SEGMENT, "knn": by_k})
    tables = {item.task: item.tables for item in read_run(run).evaluations}
    assert tables == {
        "segment": {"IoU": [{"class": "wall", "IoU": 61.5}, {"class": "sky", "IoU": None}]},
        "knn": {},
    }


@pytest.mark.parametrize("command", ["report", "compare"])
def test_the_pages_show_them(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [save_run(tmp_path / name) for name in ("one", "two")]
    chosen = folders[:1] if command == "report" else folders
    assert evaluate([command, *map(str, chosen)]) == 0
    file = tmp_path / ("one/report.html" if command == "report" else "comparison/compare.html")
    text = file.read_text()
    Page(text)
    masks = "mask AP (%)" if command == "report" else "AP of masks"
    for words in ("Mean IoU", "48.12", "wall", masks, "Robustness: v2"):
        assert words in text, words
