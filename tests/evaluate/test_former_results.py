"""Results of mixtureprobe from when it was called msem are shown as what they are."""

import json

import pytest
from html_page import Page, write_png
from tiny import save_run, tiny_model

from fastimae.cli import evaluate
from fastimae.evaluate.origin import read_origin
from fastimae.evaluate.pages.accuracies import columns_of
from fastimae.evaluate.pages.runs import read_run
from fastimae.evaluate.result_files import check_own, read_results
from fastimae.folders import FolderError

TABLE = [{"model": "imae", "mix_ratio": 0.2, "subordinate": 9.5, "dominant": 40.0}]


def write(folder, task, numbers, **more):
    folder.mkdir(parents=True)
    origin = read_origin(folder.parent / "checkpoint-last.pth")
    content = {"task": task, "numbers": numbers, "settings": {"c": 1.0}, **origin, **more}
    (folder / "results.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path):
    """A run with a msem of the former kind and, elsewhere, one of the paper's."""
    save_run(tmp_path, tiny_model(heads=2), epochs=1)
    (tmp_path / "log.txt").write_text(json.dumps({"epoch": 0, "train_loss": 1.0}) + "\n")
    numbers = {"msem": 9.5, "table": TABLE}
    write(tmp_path / "eval-msem", "msem", numbers, pictures=["msem.png"])
    write_png(tmp_path / "eval-msem" / "msem.png", 1)
    write(tmp_path / "eval-new", "msem", {"acc1": 92.34, "cross_entropy": 0.25})
    return tmp_path


def test_they_are_read_under_the_present_name(run):
    content = read_results(run / "eval-msem")
    assert content["task"] == "mixtureprobe"
    assert content["numbers"] == {"mean_acc1": 9.5, "table": TABLE}
    assert read_results(run / "eval-new")["task"] == "msem"


def test_a_study_of_them_has_their_column(tmp_path):
    rows = [{"model": "r0", "linear": 50.0, "msem": 9.5}]
    (tmp_path / "results.json").write_text(
        json.dumps({"task": "semantics", "numbers": {"table": rows}})
    )
    (row,) = read_results(tmp_path)["numbers"]["table"]
    assert row == {"model": "r0", "linear": 50.0, "mixtureprobe": 9.5}


def test_columns_of_accuracies_are_apart(run):
    columns = columns_of([read_run(run)])
    values = {title: score.value for title, (score,) in columns.items()}
    assert values == {"M_sem (eval-new)": 92.34, "Mixture probe": 9.5}


@pytest.mark.parametrize("task", ["report", "compare"])
def test_pages_call_them_by_what_they_are(run, task):
    flags = [] if task == "report" else ["--output_dir", str(run / "compared")]
    assert evaluate([task, str(run), *flags]) == 0
    page = run / ("report.html" if task == "report" else "compared/compare.html")
    text = Page(page.read_text()).text
    assert "Mixture probe" in text and "M_sem (eval-new)" in text
    assert "9.5" in text and "Mixture probe: msem" not in text
    said = "Measured by fastimae-eval msem of an earlier version: not M_sem."
    assert (said in text) == (task == "report")


def test_a_new_msem_does_not_write_over_them(run):
    check_own(run / "eval-msem", "mixtureprobe")
    with pytest.raises(FolderError, match="eval-msem has the results of mixtureprobe: choose"):
        check_own(run / "eval-msem", "msem")
