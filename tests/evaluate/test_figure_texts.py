"""No text of a figure is cut off at its edges, however long names and notes are."""

import numpy as np
import pytest
import torch
from figure_texts import texts_of, texts_outside
from tiny import tiny_model

pytest.importorskip("sklearn")

from fastimae.evaluate.studies import plot
from fastimae.evaluate.studies.file import read_study
from fastimae.evaluate.studies.table import Row
from fastimae.evaluate.tasks import attention, msem, separability, tsne, weights
from fastimae.objectives.pictures import LEAK_NOTE
from fastimae.pictures import plots
from fastimae.pictures.picture_table import draw_picture_table

PICTURE = torch.zeros(32, 32, 3, dtype=torch.uint8)
NAMES = ("mae", "imae", "an_experiment_with_a_name_of_fifty_characters_or_so", "group/run_17")
ROWS = [
    {"model": name, "kind": "i-MAE, not distilled", "mix_ratio": ratio, "subordinate": 5 * ratio,
     "dominant": ratio, "before": 1 + ratio, "after_closed_form": ratio, "after_trained": ratio,
     "unexplained": ratio}
    for name in NAMES for ratio in (0.1, 0.2, 0.3)
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test draws."""
    figures = []
    monkeypatch.setattr(plots.plt, "close", figures.append)
    return figures


def table(columns, cell_inches):
    rows = [("subordinate", [PICTURE] * columns)] * 2
    titles = [f"subordinate reconstructed {number}" for number in range(columns)]
    return lambda path: draw_picture_table(rows, titles, path, LEAK_NOTE * 2, cell_inches)


def draw_weights(path):
    model = tiny_model(depth=1)
    model.fresh_decoder = False
    weights.draw(weights.matrices_of(model), path)


def draw_study(path, x):
    """Draw a study of long names; x: the flag of its plot, None for bars."""
    models = "models: {a: {grid: {model: [x, y]}}}\nevaluations: {knn: , linear: }"
    file = path.with_suffix(".yaml")
    file.write_text(f"about: What {' and '.join(NAMES)} do\n{models}\n")
    study = read_study(file, [f"plot={{x: {x}}}"] if x else [])
    rows = [
        Row(f"{NAMES[2]}-{name}", NAMES[2], {"model": name}, {}, {"knn": [50.0], "linear": [3.5]},
            {"knn": 60.5})
        for name in NAMES[1:3]
    ]  # fmt: skip
    plot.draw(
        study, rows, ["Ours: " + " --flag value" * 30, "The paper's: another sentence."], path
    )


DRAW = {
    "a table of one narrow column": table(1, 1.1),
    "a table of small pictures": table(4, 0.9),
    "msem": lambda path: msem.draw(ROWS, path),
    "separability": lambda path: separability.draw(ROWS, path),
    "a study of lines": lambda path: draw_study(path, "model"),
    "a study of bars": lambda path: draw_study(path, None),
    "attention": lambda path: attention.draw(
        PICTURE, torch.rand(2, 1, 16), [0, 11], (4, 4), (1, 1), path
    ),
    "tsne": lambda path: tsne.draw(
        np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 20,
        ["African hunting dog, hyena dog, Cape hunting dog, Lycaon pictus"] * 20, path,
    ),
    "weights": draw_weights,
}  # fmt: skip


@pytest.mark.parametrize("name", DRAW)
def test_all_texts_are_within_the_figure(name, drawn, tmp_path):
    DRAW[name](tmp_path / "figure.png")
    (figure,) = drawn
    assert texts_outside(figure) == [] and len(texts_of(figure)) > 2
