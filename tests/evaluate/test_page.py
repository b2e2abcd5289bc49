"""The page of a run: whole, self-contained, and true to what is in the folder."""

import base64
import html
import io
import json
import re

import pytest
from html_page import Page, write_png
from PIL import Image
from tiny import save_run, tiny_model

from fastimae.engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from fastimae.evaluate.pages.charts import COLORS
from fastimae.evaluate.pages.curves import curves
from fastimae.evaluate.pages.page import Section, render
from fastimae.evaluate.pages.runs import is_finished, read_run
from fastimae.evaluate.pages.tables import format_value, markdown
from fastimae.evaluate.tasks.report import ReportOptions, page, run
from fastimae.settings import ConfigError

LOSSES = [3.0, 2.5, 2.25]
NASTY = '<script>alert("&")</script>'


def write_results(folder, task, numbers, **more):
    folder.mkdir(parents=True)
    content = {"task": task, "numbers": numbers, **more}
    (folder / "results.json").write_text(json.dumps(content))


@pytest.fixture
def a_run(tmp_path):
    """A folder as fastimae-train and fastimae-eval leave it."""
    folder = tmp_path / "my run"
    save_run(folder, tiny_model(), epochs=3, mask_ratio=0.75, ffcv=f"/data/{NASTY}.beton")
    lines = [
        {"train_loss": loss, "train_lr": 1e-3, "epoch": n, "img_per_s": 100.0 + n}
        for n, loss in enumerate(LOSSES)
    ]
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')
    write_png(folder / "reconstruction.png", 0)
    write_results(folder / "eval-linear", "linear", {"acc1": 61.25, "acc5": 95.5, "note": NASTY},
                  settings={"epochs": 90, "val": NASTY})  # fmt: skip
    (folder / "eval-linear" / "log.txt").write_text(
        '{"epoch": 0, "acc1": 40.0}\n{"epoch": 1, "acc1": 61.25}\n'
    )
    table = [{"mix_ratio": n / 40, "model": NASTY, "psnr": 20.5 + n} for n in range(20)]
    write_results(folder / "eval-reconstruct", "reconstruct", {"images": 8, "table": table})
    write_png(folder / "eval-reconstruct" / "grid.png", 1)
    write_results(folder / "previous-1" / "eval-linear", "linear", {"acc1": 11.0})
    return folder


def report(folder, **options):
    run(ReportOptions(run_folder=folder, **options))
    text = (folder / "report.html").read_text()
    return text, Page(text)


def test_every_image_is_in_the_page_as_it_is_in_the_folder(a_run):
    _, page = report(a_run)
    found = []
    for source in page.images:
        head, data = source.split(",", 1)
        assert head == "data:image/png;base64"
        content = base64.b64decode(data, validate=True)
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            image.load()
        found.append(content)
    files = (a_run / "reconstruction.png", a_run / "eval-reconstruct" / "grid.png")
    assert found == [file.read_bytes() for file in files]


def test_nothing_is_fetched_from_elsewhere(a_run):
    text, page = report(a_run)
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,"))
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids) and len(anchors) >= 5
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", without_images)
    assert NASTY not in text and "width=device-width" in text and "prefers-color-scheme" in text


def test_the_page_tells_the_run(a_run):
    _, page = report(a_run)
    for expected in ("my run", "MAE", "75% masked", "3 epochs", "61.25", "95.5", "2.25", "102",
                     "top-1 (%)", "mix_ratio", "Reconstruct", "Table: 20 rows", NASTY):  # fmt: skip
        assert expected in page.text, expected
    assert "11.0" not in page.text  # set aside by a later run
    assert page.rows > 20 + 5
    charts = [values["aria-label"] for tag, values in page.tags if tag == "svg"]
    assert charts == ["Loss", "Learning rate", "Speed", "Accuracy"]


def test_the_page_of_a_folder_without_checkpoint(tmp_path):
    folder = tmp_path / "x"
    write_results(folder / "eval-knn", "knn", {"acc1": 33.5})
    _, page = report(folder)
    assert "33.5" in page.words and not page.images
    with pytest.raises(ConfigError, match="not a folder"):
        run(ReportOptions(run_folder=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is it a run"):
        run(ReportOptions(run_folder=tmp_path / "empty"))


def test_a_study_names_whose_evaluation_is_whose(tmp_path):
    write_results(tmp_path / "study", "study", {"table": [{"model": "r1", "linear": 50.5}]})
    write_results(tmp_path / "study" / "r1" / "eval-linear", "linear", {"acc1": 50.5})
    write_results(tmp_path / "study" / "other place", "linear", {"acc1": 20.5})
    write_png(tmp_path / "study" / "study.png", 0)
    found = read_run(tmp_path / "study")
    names = [item.name for item in found.evaluations]
    assert sorted(names) == ["linear (other place)", "linear (r1)", "study"]
    assert found.pictures == ()
    _, page = report(tmp_path / "study")
    assert len(page.images) == 1
    headings = [word for word in page.words if word in ("Study", "Linear (r1)")]
    assert headings[:2] == ["Study", "Linear (r1)"]


def test_runs_are_read_as_they_were_left(a_run):
    found = read_run(a_run)
    assert [line["train_loss"] for line in found.log] == LOSSES
    assert found.settings["mask_ratio"] == 0.75
    assert [item.name for item in found.evaluations] == ["linear", "reconstruct"]
    assert not is_finished(a_run)  # killed before the checkpoint of the log's last epoch
    saved = load_checkpoint(a_run / LAST)
    for loader, finished in (({}, True), ({"finished": True}, True), ({"finished": False}, False)):
        save_checkpoint(a_run / LAST, {**saved, "epoch": 2, "loader": loader})
        assert is_finished(a_run) is finished
    save_checkpoint(a_run / LAST, {**saved, "epoch": 2})
    assert is_finished(a_run)
    (a_run / "log.txt").write_text('{"epoch": 1}\n')
    assert not is_finished(a_run)
    (a_run / "checkpoint-last.pth").write_bytes(b"not a checkpoint")
    assert read_run(a_run).settings == {} and not is_finished(a_run)


def test_a_page_is_the_same_each_time(a_run):
    assert page(read_run(a_run)) == page(read_run(a_run))


def test_each_colour_has_a_light_and_a_dark_value(a_run):
    text, _ = report(a_run)
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    names = set(re.findall(r"(--\w+):", light))
    assert names and names == set(re.findall(r"(--\w+):", dark))
    assert set(re.findall(r"var\((--\w+)\)", text)) <= names
    assert {f"--c{number}" for number in range(COLORS)} <= names


def test_text_is_never_markup_wherever_it_comes_from(tmp_path):
    texts = []

    def hostile(where):
        texts.append(f"<b onclick='x'>{where}</b> & \"{{{{ 1 }}}}")
        return texts[-1]

    picture = tmp_path / "<b onclick='x'>picture & \".png"
    write_png(picture, 0)
    key, row = hostile("key of a log"), {hostile("column"): hostile("cell")}
    section = Section(
        title=hostile("heading"),
        notes=[hostile("note")],
        cards={hostile("name of a number"): hostile("number")},
        charts=curves([{key: 1.0}, {key: 2.0}]),
        tables={hostile("short table"): [row], hostile("long table"): [row] * 20},
        pictures=[picture],
        settings={hostile("setting"): hostile("value"), "list": [hostile("in a list")]},
        settings_title=hostile("settings"),
    )
    parsed = Page(render(hostile("title"), hostile("about"), [section]))
    for text in (*texts, f"{key} at 2: 2", picture.stem):
        assert text in parsed.text
    attributes = {name for tag, values in parsed.tags for name in values if tag != "img"}
    assert "onclick" not in attributes
    assert {key, f"{texts[3]}: {picture.stem}"} <= {
        values.get("aria-label", values.get("alt")) for _, values in parsed.tags
    }


def test_sections_without_content_are_left_out():
    tables = {"nothing": [], "": []}
    text = Page(render("title", "", [Section(title="Empty", tables=tables)])).text
    assert "title" in text and "Empty" not in text and "nothing" not in text


def test_markdown_tables_keep_their_columns():
    rows = [{"a": 0.123456, "b|c": None}, {"a": 123456.789, "d": "x|y", "e": True}]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| a | b\\|c | d | e |" and lines[1] == "| --- | --- | --- | --- |"
    assert lines[2] == "| 0.1235 | - | - | - |" and lines[3] == "| 1.235e+05 | - | x\\|y | yes |"
    assert (
        format_value(0.0) == "0" and format_value([1, 2.5]) == "1, 2.5" and format_value(7) == "7"
    )


def test_the_page_tells_when_where_and_how_the_run_was_computed(a_run):
    _, page = report(a_run)
    assert "Unknown: nothing is recorded" in page.text
    command = f"fastimae-train --ffcv {NASTY} --epochs 3"
    start = {"started": "2026-01-02T03:04:05+00:00", "command": command, "host": NASTY,
             "device": "NVIDIA H200", "processes": 2}  # fmt: skip
    (a_run / "run.yaml").write_text(json.dumps({"epochs": 3, "starts": [start, start]}))
    _, page = report(a_run)
    known = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert known["Started"] == "2026-01-02 03:04 UTC" and known["Starts"] == "2, resumed 1 time"
    assert known["Device"] == "2 x NVIDIA H200" and known["Host"] == NASTY
    copied = text_of_command(a_run)
    assert copied == command


def text_of_command(folder):
    """Return what a click on the command selects."""
    (block,) = re.findall(r"<pre[^>]*>(.*?)</pre>", (folder / "report.html").read_text())
    return html.unescape(re.sub(r"</?span>", "", block))


def test_a_run_is_recognised_by_run_yaml_alone(tmp_path):
    (tmp_path / "run.yaml").write_text("epochs: 400\nstarts: [{command: fastimae-train}]\n")
    _, page = report(tmp_path)
    assert "fastimae-train" in page.texts["span"] and "400" in page.text


def test_a_broken_result_is_listed_and_the_rest_is_there(a_run):
    (a_run / "eval-linear" / "results.json").write_text('{"task": "lin')
    (a_run / "eval-knn").mkdir()
    (a_run / "eval-knn" / "results.json").write_text("[1]")
    _, page = report(a_run)
    assert "its results.json cannot be read" in page.text and "61.25" not in page.text
    assert "Reconstruct" in page.text
