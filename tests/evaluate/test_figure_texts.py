"""No text of a figure is cut off at its edges, however long names and notes are."""

import numpy as np
import pytest
import torch
from figure_texts import texts_of, texts_outside
from tiny import tiny_model

pytest.importorskip("sklearn")

from fastimae.evaluate.mixing import separability_figures
from fastimae.evaluate.tasks import attention, msem, semantics, tsne, weights
from fastimae.objectives.pictures import LEAK_NOTE
from fastimae.pictures import plots
from fastimae.pictures.picture_table import draw_picture_table

PICTURE = torch.zeros(32, 32, 3, dtype=torch.uint8)
NAMES = ("mae", "imae", "an_experiment_with_a_name_of_fifty_characters_or_so", "group/run_17")
NOTE = "MSE per element of latents in encoder space (width 1024), all tokens but one. " * 3
ROWS = [
    {"model": name, "kind": "i-MAE, not distilled", "mix_ratio": ratio, "subordinate": 5 * ratio,
     "dominant": ratio, "mse_before": 1 + ratio, "mse_after": ratio, "mse_after_trained": ratio,
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


STUDY = [{"model": name, "same_class_ratio": ratio, "linear": 50.0, "msem": 3.0}
         for name, ratio in (("baseline", None), ("r0", 0.0), ("r1", 1.0))]  # fmt: skip
DRAW = {
    "a table of one narrow column": table(1, 1.1),
    "a table of small pictures": table(4, 0.9),
    "msem": lambda path: msem.draw(ROWS, path),
    "separability": lambda path: separability_figures.draw(ROWS, path, NOTE),
    "separability at one ratio": lambda path: separability_figures.draw(
        [row | {"mse_after_held_out": 9.0} for row in ROWS[::3]], path, NOTE
    ),
    "semantics": lambda path: semantics.draw(STUDY, ("linear", "msem"), path),
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
