"""The plot of a study: a point or a bar for each number, the paper's numbers hollow."""

import math

import pytest
from matplotlib.lines import Line2D

from fastimae.evaluate.studies import plot
from fastimae.evaluate.studies.file import read_study
from fastimae.evaluate.studies.table import Row, table

FILE = """\
about: over ratios
models:
  mae: {objective: mae}
  imae: {grid: {same_class_ratio: [1, 0, 0.5], mask_ratio: [0.5, 0.75]}}
evaluations: {linear: , knn: }
plot: {x: same_class_ratio}
"""


def row(name, model, numbers, paper=(), **point):
    return Row(name, model, point, {}, {"linear": numbers, "knn": numbers[:1]}, dict(paper))


ROWS = [
    row("mae", "mae", [10.0, 12.0], {"linear": 15.0}),
    *(
        row(f"imae-{ratio}-{mask}", "imae", [20 + ratio + mask, 22 + ratio + mask],
            {"linear": 30 + ratio} if mask == 0.5 and ratio != 0.5 else {},
            same_class_ratio=ratio, mask_ratio=mask)
        for ratio in (1, 0, 0.5) for mask in (0.5, 0.75)
    ),
    row("imae-gone", "imae", [], same_class_ratio=0.25, mask_ratio=0.5),
]  # fmt: skip


@pytest.fixture
def drawn(tmp_path, drawn_figures):
    """Function (rows, *changes of the file) that draws them and returns the axes by title."""

    def draw(rows, *changes):
        (tmp_path / "few.yaml").write_text(FILE)
        study = read_study(tmp_path / "few.yaml", changes)
        plot.draw(study, rows, ["Ours: here.", "The paper's: there."], tmp_path / "study.png")
        assert (tmp_path / "study.png").stat().st_size > 5000
        return {axis.get_title(): axis for axis in drawn_figures[-1].axes}

    return draw


def points_of(axis, *, hollow):
    """Return the points that are drawn, and the heights of lines across."""
    found = set()
    for line in axis.findobj(Line2D):
        xs, ys = line.get_data()
        across = list(xs) == [0, 1] and line.get_marker() == "None"
        if across and (line.get_linestyle() == "--") == hollow:
            found.add(("across", float(ys[0])))
        elif line.get_marker() == "o" and (line.get_markerfacecolor() == "none") == hollow:
            found |= {(float(x), float(y)) for x, y in zip(xs, ys, strict=True)}
    return {point for point in found if not any(value != value for value in point)}


def test_each_number_is_a_point(drawn):
    axis = drawn(ROWS)["linear"]
    wanted = {(ratio, 21 + ratio + mask) for ratio in (1, 0, 0.5) for mask in (0.5, 0.75)}
    assert points_of(axis, hollow=False) == wanted | {("across", 11)}
    assert points_of(axis, hollow=True) == {(1, 31), (0, 30), ("across", 15)}
    names = [text.get_text() for text in axis.figure.legends[0].get_texts()]
    assert sorted(names) == ["imae, mask_ratio 0.5", "imae, mask_ratio 0.75", "mae", "the paper's"]
    assert "The paper's: there." in axis.figure.legends[0].get_title().get_text()
    assert axis.get_xlabel() == "same_class_ratio" and axis.get_ylabel() == "top-1 (%)"
    assert axis.get_xscale() == "linear"


def test_lines_go_from_left_to_right(drawn):
    axis = drawn(ROWS)["linear"]
    lines = [line.get_xdata() for line in axis.findobj(Line2D) if line.get_marker() == "o"]
    assert all(list(xs) == sorted(xs) for xs in lines)


def test_words_have_places_of_their_own(drawn):
    rows = [row(f"imae-{name}", "imae", [float(number)], same_class_ratio=name)
            for number, name in enumerate("zab")]  # fmt: skip
    axis = drawn(rows)["knn"]
    assert points_of(axis, hollow=False) == {(0, 0), (1, 1), (2, 2)}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["z", "a", "b"]


def test_a_logarithmic_axis(drawn):
    rows = [row(f"imae-{n}", "imae", [50.0], same_class_ratio=n) for n in (1, 10, 1000)]
    assert drawn(rows, "plot.log=true")["linear"].get_xscale() == "log"


def test_without_x_each_model_has_a_bar(drawn):
    axis = drawn(ROWS, "plot=")["linear"]
    widths = {
        text.get_text(): bar.get_width()
        for text, bar in zip(axis.get_yticklabels(), axis.patches, strict=True)
    }
    assert math.isnan(widths.pop("imae-gone"))
    assert widths == {row.name: row.mean("linear") for row in ROWS[:-1]}
    assert points_of(axis, hollow=True) == {(15, 0), (31, 1), (30, 3)}
    assert axis.yaxis_inverted()  # the first model is at the top


def test_many_columns_take_several_rows(drawn):
    columns = ", ".join(f"c{number}: linear.acc1" for number in range(6))
    rows = [row._replace(numbers={f"c{number}": [5.0] for number in range(6)}) for row in ROWS[:2]]
    axes = drawn(rows, f"columns={{{columns}}}")
    assert list(axes) == [f"c{number}" for number in range(6)]
    assert all(points_of(axis, hollow=False) for axis in axes.values())


def test_the_table_of_several_seeds(tmp_path):
    (tmp_path / "few.yaml").write_text(FILE)
    study = read_study(tmp_path / "few.yaml")
    first, *_, last = table(study, ROWS)
    assert first == {
        "model": "mae", "same_class_ratio": None, "mask_ratio": None, "seeds": 1,
        "linear": 11, "linear, deviation": pytest.approx(math.sqrt(2)), "linear, paper": 15,
        "knn": 10, "knn, deviation": None,
    }  # fmt: skip
    assert (last["seeds"], last["linear"], last["linear, deviation"]) == (0, None, None)
