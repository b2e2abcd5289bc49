"""Charts: each point where its value is, at the scale that the ticks show, in a page's colours."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from figure_texts import texts_of, texts_outside
from matplotlib.backends.backend_svg import FigureCanvasSVG

from fastimae.evaluate.pages import charts
from fastimae.evaluate.pages.charts import COLORS, MARKED, line_chart
from fastimae.evaluate.pages.curves import curves


def draw(lines, title="title"):
    (chart,) = line_chart(title, lines, "unit")
    return chart, ElementTree.fromstring(chart.svg)


def points(svg, name):
    """Return the places of a line's points in the picture, by the values that one sees at them."""
    found = {}
    for marker in svg.iter("use"):
        text = marker.find("title").text
        if text.startswith(f"{name} at "):
            found[text.removeprefix(f"{name} at ")] = float(marker.get("x")), float(marker.get("y"))
    return found


def ticks(svg):
    """Return the values at the ticks of both axes, each with its place in the picture."""
    grid = [re.match(r"M \S+ (\S+) +L", path.get("d"))[1] for path in svg.iter("path")
            if "var(--rule)" in path.get("style", "")]  # fmt: skip
    labels = [(text, float(text.text.replace("\N{MINUS SIGN}", "-"))) for text in svg.iter("text")
              if text.text not in ("epoch", "unit")]  # fmt: skip
    across, up = ([pair for pair in labels if f"text-anchor: {anchor}" in pair[0].get("style")]
                  for anchor in ("middle", "end"))  # fmt: skip
    x = [(value, float(text.get("x"))) for text, value in across]
    return x, list(zip((value for _, value in up), map(float, grid), strict=True))


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (0.0021, 0.0049), (-3, 17), (1e-9, 3e-9), (5, 5), (0, 0), (12, 1e6),
     (99.9991, 99.9992), (-1e300, 1e300)],
)  # fmt: skip
def test_points_are_where_the_ticks_say(low, high):
    values = [(1, low), (2, high), (4, (low + high) / 2)]
    _, svg = draw({"a": values})
    x_ticks, y_ticks = ticks(svg)
    found = points(svg, "a")
    assert len(found) == 3
    for (x, y), place in zip(values, found.values(), strict=True):
        assert np.interp(x, *zip(*x_ticks, strict=True)) == pytest.approx(place[0], abs=0.1)
        assert np.interp(y, *zip(*y_ticks, strict=True)) == pytest.approx(place[1], abs=0.1)
    for axis, least, most in ((x_ticks, 1, 4), (y_ticks, low, high)):
        at, _ = zip(*axis, strict=True)
        steps = np.diff(at)
        assert at[0] <= least and at[-1] >= most and 2 <= len(at) <= 12
        assert np.allclose(steps, steps[0], rtol=1e-3, atol=0)
        mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(mantissa - round_one) for round_one in (1, 2, 2.5, 5, 10)) < 1e-3


def test_epochs_are_whole_numbers():
    for last in (1, 2, 3, 7, 300):
        x_ticks, _ = ticks(draw({"a": [(1, 0.5), (last, 0.25)]})[1])
        assert all(value == int(value) for value, _ in x_ticks)


def test_every_line_has_its_colour_and_its_last_value():
    names = ["a < b & c", "line 0", "$x$", "figure_1", "#0000f1", *"defg"]
    lines = {name: [(1, number), (2, number + 0.5)] for number, name in enumerate(names)}
    lines["never finite"] = [(1, float("nan")), (2, float("inf")), (3, 1e308)]
    chart, svg = draw(lines)
    last = {line.name: line.last for line in chart.lines}
    assert last == {name: number + 0.5 for number, name in enumerate(names)}
    for name, value in last.items():
        assert list(points(svg, name)) == [f"1: {value - 0.5:g}", f"2: {value:g}"]
    assert len({(line.color, line.dash) for line in chart.lines}) == len(names)
    styles = [path.get("style") for path in svg.iter("path")]
    line = re.compile(r"fill: none; (?:stroke-dash.*: .*; )?stroke: var\(--c(\d)\)")
    colors = [int(color) for style in styles for color in line.findall(style)]
    assert colors == [number % COLORS for number in range(len(names))]


def test_points_that_are_not_finite_are_left_out():
    _, svg = draw({"a": [(1, 1.0), (2, float("nan")), (3, 3.0), (4, float("-inf"))]})
    assert list(points(svg, "a")) == ["1: 1", "3: 3"]
    assert line_chart("none", {"a": [(1, float("nan"))], "b": []}, "unit") == []


def test_points_of_long_lines_are_not_marked():
    _, svg = draw({"long": [(n, n) for n in range(MARKED + 1)], "short": [(0, 1)]})
    assert len(list(svg.iter("use"))) == len(points(svg, "short")) == 1


def test_a_chart_is_the_same_each_time_and_leaves_colours_and_fonts_to_the_page():
    lines = {"a": [(1, 1.0), (2, 3.0)], "b": [(1, 2.0), (2, 1.0)]}
    chart, svg = draw(lines)
    assert line_chart("title", lines, "unit") == [chart]
    assert not re.search(r"#\d|rgb|font|http|url\(|20\d\d-\d\d|matplotlib", chart.svg)
    ids = [element.get("id") for element in svg.iter() if element.get("id")]
    assert {marker.get("href")[1:] for marker in svg.iter("use")} == set(ids)
    _, other = draw(lines, title="another")
    others = [element.get("id") for element in other.iter() if element.get("id")]
    assert len(ids) == len(others) == len({*ids, *others}) / 2


def test_a_log_makes_a_chart_for_each_kind_of_number():
    entry = {
        "epoch": 4, "train_loss": 1.0, "train_lr": 0.1, "val_loss": 2.0, "train_mse_a": 0.5,
        "acc1": 3.0, "bad_samples": 0, "img_per_s": 9, "resumed": True, "note": "x",
    }  # fmt: skip
    charts = curves([entry, entry | {"epoch": 5}])
    assert {chart.title: [line.name for line in chart.lines] for chart in charts} == {
        "Accuracy": ["acc1"],
        "Loss": ["loss", "val loss"],
        "Loss, its parts": ["mse a"],
        "Learning rate": ["learning rate"],
        "Speed": ["images per second"],
    }
    assert [chart.title for chart in charts][:3] == ["Accuracy", "Loss", "Loss, its parts"]
    assert list(points(ElementTree.fromstring(charts[0].svg), "acc1")) == ["5: 3", "6: 3"]
    assert curves([entry]) == []


def test_a_run_keeps_its_colour_where_others_have_no_points():
    (chart,) = line_chart("title", {"a": [], "b": [(1, 1.0)]}, "unit")
    assert [(line.name, line.color) for line in chart.lines] == [("b", "var(--c1)")]


@pytest.mark.parametrize(
    "values", [(0, 1), (-1e300, 1e300), (99.9991, 99.9992), (1e-9, 3e-9), (123456789, 123456790)]
)
def test_labels_are_within_the_chart(values):
    """In the size in which they are laid out: the page's style sheet uses the same."""
    points = list(enumerate(values, 999))
    with charts.matplotlib.rc_context(charts._STYLE):
        figure = charts.draw([charts.Line("a", 0, points)], "images per second")
        FigureCanvasSVG(figure).print_svg(io.StringIO())
        assert texts_outside(figure) == []
        assert len(texts_of(figure)) >= 6


def test_labels_have_the_size_that_they_are_laid_out_for(pytestconfig):
    folder = pytestconfig.rootpath / "fastimae" / "evaluate" / "pages" / "templates"
    sizes = re.findall(r"svg text \{[^}]*font-size: (\w+)", (folder / "style.css").read_text())
    assert sizes == [f"{charts.FONT_SIZE}px"]


def test_axes_have_units():
    entry = {"train_loss": 1.0, "img_per_s": 9, "memory_gb": 2.0, "$x$_unknown": 1}
    labels = [{text.text for text in ElementTree.fromstring(chart.svg).iter("text")}
              for chart in curves([entry, entry])]  # fmt: skip
    units = ("loss", "value", "GB", "images per second")
    assert all(unit in found and "epoch" in found
               for unit, found in zip(units, labels, strict=True))  # fmt: skip
