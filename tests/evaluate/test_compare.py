"""Runs side by side: accuracies first, what differs is there, what is the same is folded away."""

import json
import re

import pytest
from html_page import Page, write_png
from tiny import save_run, tiny_model

from fastimae.evaluate.command import options_of
from fastimae.evaluate.options.pages import CompareOptions
from fastimae.evaluate.origin import read_origin
from fastimae.evaluate.pages.comparison import aligned, common, differing, tables_of
from fastimae.evaluate.pages.runs import read_run, unique_names
from fastimae.evaluate.pages.tables import Cell, plain_table
from fastimae.evaluate.tasks.compare import run
from fastimae.settings import ConfigError

OLD = "separability before, summed over the width"
"""The title of a column that results of earlier versions have."""
SETTINGS = {"epochs": 90, "val": "val.beton"}


@pytest.fixture
def runs(tmp_path):
    """Two runs with different settings, losses and evaluations."""
    for name, loss, beta, acc1 in (("first", 0.5, 1.0, 60.5), ("second", 0.25, 2.0, 70.25)):
        folder = tmp_path / name
        save_run(folder, tiny_model(), epochs=1, mix_beta=beta, output_dir=str(folder), seed=0)
        lines = [{"epoch": n, "train_loss": loss, "train_lr": 0.1, "img_per_s": 10} for n in (0, 1)]
        (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
        write_png(folder / "reconstruction.png", seed=len(name))
        write(folder / "eval-linear", "linear", {"acc1": acc1, "note": "words"})
        table = [
            {"model": name, "mix_ratio": ratio, "before": 10 * ratio + beta} for ratio in (0.1, 0.3)
        ]
        write(folder / "eval-separability", "separability", {"table": table})
    write(tmp_path / "second" / "eval-knn", "knn", {"acc1": 44.0})
    write_png(tmp_path / "second" / "eval-knn" / "votes.png", 3)
    return [tmp_path / "first", tmp_path / "second"]


def write(folder, task, numbers):
    folder.mkdir(parents=True)
    origin = read_origin(folder.parent / "checkpoint-last.pth")
    content = {"task": task, "numbers": numbers, "settings": SETTINGS, **origin}
    (folder / "results.json").write_text(json.dumps(content))


def compare(runs, folder, **options):
    """Run the task; return the text of its page, and the page."""
    run(CompareOptions(runs=tuple(runs), output_dir=folder, **options))
    text = (folder / "compare.html").read_text()
    return text, Page(text)


def test_a_row_that_only_its_model_names_is_the_runs_own(runs):
    """As in the table of tsne; rows of other models keep their names."""
    table = [{"model": name, "silhouette_points": 0.5 * len(name)} for name in ("second", "other")]
    write(runs[1] / "eval-tsne", "tsne", {"table": table})
    details = tables_of([read_run(folder) for folder in runs])["details"]
    found = {row[""]: row["second"] for row in details if "tsne" in row[""]}
    assert found == {"tsne silhouette_points": 3.0, "tsne silhouette_points (other)": 2.5}


def test_tables_hold_each_runs_own_numbers(runs):
    parts = tables_of([read_run(folder) for folder in runs])
    assert parts["settings"] == [{"": "mix_beta", "first": 1.0, "second": 2.0}]
    assert parts["losses"] == [{"": "train_loss", "first": 0.5, "second": 0.25}]
    assert parts["numbers"] == [
        {"": "linear acc1", "first": 60.5, "second": 70.25},
        {"": "knn acc1", "first": None, "second": 44.0},
    ]
    assert parts["details"] == [
        {"": f"{OLD} (mix_ratio 0.1)", "first": 2.0, "second": 3.0},
        {"": f"{OLD} (mix_ratio 0.3)", "first": 4.0, "second": 5.0},
    ]


def test_probes_while_training_are_the_last_ones_and_seen_at_once(runs, tmp_path, capsys):
    """Whatever epochs they are of: here not of the log's last line."""
    for folder, accs in zip(runs, ((30.5, 41.5), (32.0, 40.25)), strict=True):
        probes = [{"probe_knn_acc1": acc, "probe_seconds": 2.0} for acc in accs]
        lines = [{"epoch": n, **values} for n, values in enumerate([*probes, {"train_loss": 0.5}])]
        (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text, _ = compare(runs, tmp_path / "out")
    assert re.search(r"^Probes\n\n.*\nprobe_knn_acc1 +41.5 +40.25$", capsys.readouterr().out, re.M)
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["probes"] == [{"": "probe_knn_acc1", "first": 41.5, "second": 40.25}]
    assert text.index("Nearest neighbours while training") < text.index("more curve")


def test_settings_that_differ_and_settings_that_are_the_same():
    settings = [{"a": 1, "b": 2, "device": "x"}, {"a": 1, "b": 3, "c": [4]}]
    rows = [{"": "b", "m": 2, "n": 3}, {"": "c", "m": None, "n": [4]}]
    assert differing(settings, ["m", "n"]) == rows
    assert common(settings, ["m", "n"]) == {"a": 1}
    assert aligned([], []) == differing([], []) == [] and common([], []) == {}
    # Nothing is known about the settings of a run without a checkpoint: not that they differ.
    assert differing([*settings, {}], ["m", "n", "o"]) == [row | {"o": None} for row in rows]
    assert common([*settings, {}], ["m", "n", "o"]) == {"a": 1}


def test_the_terminal_and_both_files_lead_with_accuracies(runs, tmp_path, capsys):
    text, page = compare(runs, tmp_path / "out")
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "Accuracies (%), top-1 unless named"
    assert lines[2].split() == ["run", "Linear", "Nearest", "neighbours"]
    assert [line.split() for line in lines[3:5]] == [
        ["first", "60.50", "-"], ["second", "70.25", "*", "44.00"],
    ]  # fmt: skip
    assert re.search(r"^mix_beta +1 +2$", printed, re.MULTILINE)
    assert re.search(r"^knn acc1 +- +44$", printed, re.MULTILINE)
    assert "separability before" not in printed
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert list(content)[:2] == ["runs", "accuracies"]
    assert content["runs"] == [str(folder) for folder in runs]
    best = {"value": 70.25, "best": True, "notes": []}
    assert content["accuracies"][1]["Linear"] == best
    assert content["details"][1]["second"] == 5.0
    headings = page.texts["h2"]
    assert headings == ["Accuracies (%), top-1 unless named", "Curves", "Pictures",
                        "Settings that differ", "All numbers", "Dates and machines"]  # fmt: skip
    assert page.texts["b"][0] == "★ 70.25" and "★ 60.50" not in page.texts["b"]
    assert "http" not in text
    compare(runs, tmp_path / "out", all=True)
    printed = capsys.readouterr().out
    assert re.search(rf"^{OLD} \(mix_ratio 0.1\) +2 +3$", printed, re.MULTILINE)


def test_curves_are_over_each_other_with_a_legend(runs, tmp_path):
    text, page = compare(runs, tmp_path / "out")
    charts = text.split("<figure")
    (loss,) = [chart for chart in charts if "<figcaption>Training loss</figcaption>" in chart]
    assert "<title>first at 1: 0.5</title>" in loss and "<title>second at 1: 0.25</title>" in loss
    legend = re.findall(r"<li><span[^>]*--c(\d)\)\"></span>(\w+)", loss)
    assert legend == [("0", "first"), ("1", "second")]
    assert "2 more curves" in page.text


def test_pictures_of_one_kind_are_in_a_row(runs, tmp_path):
    text, page = compare(runs, tmp_path / "out")
    rows = text.split('class="side-by-side"')[1:]
    alts = [re.findall(r'alt="([^"]+)"', row.split("</section>")[0]) for row in rows]
    assert alts == [
        [f"Training: reconstruction of {name}" for name in ("first", "second")],
        ["Nearest neighbours: votes of second"],
    ]
    assert "first: none" in page.text


@pytest.mark.parametrize("count", [1, 3, 10])
def test_any_number_of_runs(runs, tmp_path, count):
    page = compare((runs * 5)[:count], tmp_path / "out")[1]
    title = page.texts["title"][0]
    assert title == ("first" if count == 1 else "10 runs side by side" if count == 10 else
                     "first (1) / second / first (2)")  # fmt: skip
    cells = [text for text in page.texts["b"] if text.startswith("★")]
    expected = {1: [], 3: ["★ 70.25"], 10: ["★ 44.00"] * 5 + ["★ 70.25"] * 5}
    assert sorted(cells) == expected[count]


def test_names_of_folders_are_as_short_as_they_can_be_unique(tmp_path):
    names = ["a/m/x", "b/m/x", "b/y", "c/y/z", "b/y"]
    unique = ["a/m/x", "b/m/x", "y (1)", "z", "y (2)"]
    assert unique_names([tmp_path / name for name in names]) == unique
    assert unique_names([]) == []


def test_without_a_run_the_error_says_what_to_name():
    with pytest.raises(ConfigError, match="name the folders"):
        options_of("compare", [])


def test_plain_tables_have_columns_of_even_width():
    rows = [{"": "a", "long name": Cell("7.50", best=True)}, {"": "bcd", "long name": 1234.5678}]
    assert plain_table(rows) == "     long name\na       7.50 *\nbcd       1235"
