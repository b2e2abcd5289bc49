"""The page of a run: whole, self-contained, and true to what is in the folder."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tiny import save_run, tiny_model

from fastimae.evaluate.report.page import ReportOptions, run
from fastimae.evaluate.report.runs import is_finished, read_run
from fastimae.evaluate.report.svg import line_chart, ticks
from fastimae.evaluate.report.tables import markdown, shown
from fastimae.settings import ConfigError

LOSSES = [3.0, 2.5, 2.25]
NASTY = '<script>alert("&")</script>'


def write_png(path, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


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


class Page(HTMLParser):
    """Collects what a test asks for; fails on tags that do not match."""

    VOID = ("meta", "img", "line", "polyline", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.ids = [], [], [], []
        self.tags, self.words, self.rows = [], [], 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.rows += tag == "tr"
        if tag == "img":
            self.images.append(values["src"])
        self.links += [values[name] for name in ("href", "src") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def report(folder, **options):
    run(ReportOptions(run=folder, **options))
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
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    without_images = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", without_images)
    assert NASTY not in text and "width=device-width" in text and "prefers-color-scheme" in text


def test_the_page_tells_the_run(a_run):
    _, page = report(a_run)
    words = " ".join(" ".join(page.words).split())
    for expected in ("my run", "MAE", "75% masked", "3 epochs", "61.25", "95.5", "2.25", "102",
                     "top-1 (%)", "mix_ratio", "Reconstruct", "Table: 20 rows", NASTY):  # fmt: skip
        assert expected in words, expected
    assert "11.0" not in words  # set aside by a later run
    assert page.rows > 20 + 5
    lines = [values for tag, values in page.tags if tag == "polyline"]
    assert len(lines) == 4  # loss, rate, speed, and the probe's accuracy


def test_the_page_of_a_folder_without_checkpoint(tmp_path):
    folder = tmp_path / "x"
    write_results(folder / "eval-knn", "knn", {"acc1": 33.5})
    _, page = report(folder)
    assert "33.5" in page.words and not page.images
    with pytest.raises(ConfigError, match="not a folder"):
        run(ReportOptions(run=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is it a run"):
        run(ReportOptions(run=tmp_path / "empty"))


def test_a_study_names_whose_evaluation_is_whose(tmp_path):
    write_results(tmp_path / "study", "semantics", {"table": [{"model": "r1", "linear": 50.5}]})
    write_results(tmp_path / "study" / "r1" / "eval-linear", "linear", {"acc1": 50.5})
    write_results(tmp_path / "study" / "other place", "linear", {"acc1": 20.5})
    write_png(tmp_path / "study" / "semantics.png", 0)
    found = read_run(tmp_path / "study")
    names = [item.name for item in found.evaluations]
    assert sorted(names) == ["linear (other place)", "linear (r1)", "semantics"]
    assert found.pictures == ()
    _, page = report(tmp_path / "study")
    assert len(page.images) == 1
    headings = [word for word in page.words if word in ("Same-class ratios", "Linear (r1)")]
    assert headings[:2] == ["Same-class ratios", "Linear (r1)"]


def test_runs_are_read_as_they_were_left(a_run):
    found = read_run(a_run)
    assert [line["train_loss"] for line in found.log] == LOSSES
    assert found.settings["mask_ratio"] == 0.75
    assert [item.name for item in found.evaluations] == ["linear", "reconstruct"]
    assert is_finished(a_run)
    (a_run / "log.txt").write_text('{"epoch": 1}\n')
    assert not is_finished(a_run)
    (a_run / "checkpoint-last.pth").write_bytes(b"not a checkpoint")
    assert read_run(a_run).settings == {} and not is_finished(a_run)


def test_chart_draws_each_point_where_its_value_is():
    chart = line_chart(
        "a < b", {"one": [(1, 0.0), (2, 5.0), (3, 10.0)], "two": [(2, float("nan"))]}
    )
    points = re.search(r'points="([^"]*)"', chart)[1].split()
    (x1, y1), (x2, y2), (x3, y3) = (map(float, point.split(",")) for point in points)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.11) and x3 > x2
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.11) and y1 > y3  # up is more
    assert chart.count("<polyline") == 1 and chart.count("<circle") == 3
    assert "a &lt; b" in chart and "a < b" not in chart
    assert line_chart("none", {"one": []}) == ""
    Page(chart)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.0021, 0.0049), (-3, 17), (1e-9, 3e-9), (5, 5), (0, 0), (12, 1e6)]
)
def test_ticks_are_round_even_and_around_the_values(low, high):
    values = ticks(low, high)
    steps = np.diff(values)
    assert values[0] <= low + 1e-12 and values[-1] >= high - 1e-12
    assert 2 <= len(values) <= 12 and np.allclose(steps, steps[0])
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5, 10)) < 1e-6


def test_markdown_tables_keep_their_columns():
    rows = [{"a": 0.123456, "b|c": None}, {"a": 123456.789, "d": "x|y", "e": True}]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| a | b\\|c | d | e |" and lines[1] == "| --- | --- | --- | --- |"
    assert lines[2] == "| 0.1235 | - | - | - |" and lines[3] == "| 1.235e+05 | - | x\\|y | yes |"
    assert shown(0.0) == "0" and shown([1, 2.5]) == "1, 2.5" and shown(7) == "7"
